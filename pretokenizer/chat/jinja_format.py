"""Any Jinja chat template as a chat format: `--chat_format my_template.jinja`. (SHARED with the converter)

The text is that of transformers' `apply_chat_template`. The role of every character is known, because the template
runs on strings that know their origin (pretokenizer/template). A rendering is recorded and reused for conversations
about which the template asks the same questions and gets the same answers.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import ChatFormat, ChatFormatError
from pretokenizer.chat.history import History
from pretokenizer.chat.loss import Placed, place
from pretokenizer.chat.probe import probe, tokens_of
from pretokenizer.chat.rendered import Kind, Rendered, TemplateLoss
from pretokenizer.chat.roles import Role
from pretokenizer.chat.shown import shape_of, shown
from pretokenizer.chat.template_source import template_source
from pretokenizer.template.expression import Expression, Messages, Recording
from pretokenizer.template.fragment import NO_MESSAGE, Fragment, Outline, data_of, differing, fill, text_of
from pretokenizer.template.recorded import RecordedRenderings
from pretokenizer.template.rendering import CompiledTemplate, TemplateFailureError
from pretokenizer.tokenizer.base import Tokenizer

DEFAULT_DATE = "2025-01-01"
MAX_COMPARED = 16
"""Most replies of one conversation that are compared with inference. The bound keeps long traces in linear time."""
MAX_COMPARED_UNRECORDED = 2
"""The same bound for conversations whose rendering cannot be reused, such as those with tool calls."""
_PROOF_INTERVAL = 64
"""One rendering in this many is checked against plain Jinja."""


@dataclass(frozen=True)
class TemplateOptions:
    """The user's options for a chat template: which text gets loss, what a document holds, and the template's date."""

    loss: TemplateLoss | None = None
    """Which text gets loss. None: the text inside the template's marks, or whole turns if it has no marks (loss.py)."""
    history: History = "full"
    date: str = DEFAULT_DATE
    """The date that the template's function `strftime_now` formats, as YYYY-MM-DD."""


_Pairs = list[tuple[Outline, Outline]]


class _Rendering(NamedTuple):
    """A finished rendering, which can be filled with the texts of other conversations."""

    outline: Outline
    kinds: tuple[Kind, ...]
    """The kind (role and origin) of each item of `outline`."""
    differences: list[_Pairs]
    """For each compared reply: pairs of texts (in this document, at inference). The reply changed if a pair differs."""
    replies_compared: int
    messages_dropped: int


class TemplateFormat(ChatFormat):
    """A chat template as a chat format, with the BOS and EOS tokens of one tokenizer."""

    name = "jinja"
    special_tokens = ()

    def __init__(self, source: str, path: str, tokenizer: Tokenizer, options: TemplateOptions | None = None) -> None:
        """Compile and try the template. Raises ChatFormatError if it fails, or lacks the marks that `options` need."""
        options = options or TemplateOptions()
        has_marks = "endgeneration" in source
        if options.loss == "marks" and not has_marks:
            raise ChatFormatError(f"{path}: --template_loss marks, but the template has no {{% generation %}} marks")
        self.hf_chat_template, self.path, self.history = source, path, options.history
        self.loss = options.loss or ("marks" if has_marks else "turn")
        self._recorded: RecordedRenderings[_Rendering] = RecordedRenderings()
        self._num_new = 0
        with _as_format_error():
            self._template = CompiledTemplate(source, path, tokens_of(tokenizer), options.date)
            found = probe(self._template, tokenizer)
        self.generation_prompt, self.end_of_turn = found.generation_prompt, found.end_of_turn
        self.warnings = found.warnings

    def render(self, conversation: Conversation) -> Rendered:
        """Return a conversation as pieces of text with roles. Raises ChatFormatError if the template refuses it."""
        messages = [shown(message) for message in conversation.messages]
        shape = shape_of(conversation, messages)
        found = None if shape is None else self._recorded.find(shape, messages)
        if found is None:
            recording = Recording() if shape is not None and self._recorded.is_growing else None
            with _as_format_error():
                found = self._render(conversation, messages, recording)
            if recording is not None and recording.is_exact:
                self._recorded.add(shape, recording, found)
        return _filled(found, messages)

    def _render(self, conversation: Conversation, messages: Messages, recording: Recording | None) -> _Rendering:
        tools, own = conversation.tools, conversation.messages
        fragments = self._template.fragments(messages, tools, False, recording)
        self._prove(fragments, messages, tools)
        present = {fragment.message for fragment in fragments if fragment.is_data}
        dropped = sum(bool(message.text) and number not in present for number, message in enumerate(own))
        placed = place(fragments, own, self.loss, self.generation_prompt)
        starts = reply_starts(placed, own)
        if self.history == "unroll":
            prompt = self._template.fragments(messages[:-1], tools, True, recording)
            asked = self._without_loss(place(prompt, own, self.loss, self.generation_prompt))
            reply = placed[starts.get(len(own) - 1, len(placed)) :]
            return _Rendering(*_outline([*asked, *reply]), [], 0, dropped)
        limit = MAX_COMPARED if recording is not None and recording.is_exact else MAX_COMPARED_UNRECORDED
        chosen = list(starts.items())[:: max(1, -(-len(starts) // limit))]
        here = [item.fragment for item in placed]
        pairs = [self._compare(number, here, start, (messages, tools), recording) for number, start in chosen]
        return _Rendering(*_outline(placed), [own for own in pairs if own], len(chosen), dropped)

    def _compare(
        self,
        number: int,
        here: list[Fragment],
        start: int,
        conversation: tuple[Messages, Any],
        recording: Recording | None,
    ) -> _Pairs:
        """Return pairs of texts (in this document, at inference) for reply `number`: its prompt, and its own data.

        `here` is the document, and the reply begins at `here[start]`. Pairs that are equal for all messages are left
        out. A prompt that the template refuses counts as different.
        """
        messages, tools = conversation
        try:
            if recording is not None and recording.is_exact:
                prompt = self._template.fragments(messages[:number], tools, True, recording)
            else:
                prompt = [Fragment(self._template.text(messages[:number], tools, True), NO_MESSAGE, False)]
            last = here
            if number + 1 < len(messages):
                last = self._template.fragments(messages[: number + 1], tools, False, recording)
        except TemplateFailureError:
            if recording is not None:
                recording.is_exact = False
            return [(["refused"], [])]
        pairs = [differing(here[:start], prompt), differing(data_of(here, number), data_of(last, number))]
        return [(a, b) for a, b in pairs if a or b]

    def _without_loss(self, placed: list[Placed]) -> list[Placed]:
        """Return a prompt with ASSISTANT_NO_LOSS for all assistant text and for the generation prompt at its end."""
        end = len(text_of(item.fragment for item in placed))
        begin = end - len(self.generation_prompt)
        found, at = [], 0
        for fragment, role, is_header in placed:
            quiet = Role.ASSISTANT_NO_LOSS if role is Role.ASSISTANT else role
            cut = len(fragment.text) if fragment.is_data else min(max(0, begin - at), len(fragment.text))
            found.append(Placed(fragment._replace(text=fragment.text[:cut]), quiet, is_header))
            if cut < len(fragment.text):
                rest = fragment._replace(text=fragment.text[cut:])
                found.append(Placed(rest, Role.ASSISTANT_NO_LOSS, True))
            at += len(fragment.text)
        return found

    def _prove(self, fragments: list[Fragment], messages: Messages, tools: Any) -> None:
        """Check one in _PROOF_INTERVAL renderings against plain Jinja. Raises ChatFormatError if the texts differ."""
        self._num_new += 1
        if self._num_new % _PROOF_INTERVAL == 1 and text_of(fragments) != self._template.text(messages, tools):
            raise ChatFormatError(f"{self.path}: the origin of its text cannot be followed; please report the template")


def reply_starts(placed: Sequence[Placed], messages: Sequence[Message]) -> dict[int, int]:
    """Return number of the message -> index in `placed` where its reply begins, for assistant messages with loss.

    The first message of a conversation is left out, because it answers no prompt.
    """
    starts: dict[int, int] = {}
    for position, (fragment, _, is_header) in enumerate(placed):
        number = fragment.message
        if number > 0 and not is_header and number not in starts:
            message = messages[number]
            if message.role is Role.ASSISTANT and message.train is not False:
                starts[number] = position
    return starts


def _outline(placed: Sequence[Placed]) -> tuple[Outline, tuple[Kind, ...]]:
    """Return the fixed texts and expressions of a rendering, and the kind of each. Fixed texts of a kind are joined."""
    items: list[str | Expression] = []
    kinds: list[Kind] = []
    for fragment, role, _ in placed:
        kind = Kind(role, fragment.is_data)
        last = items[-1] if items and kinds[-1] == kind else None
        if isinstance(last, str) and fragment.expression is None:
            items[-1] = last + fragment.text
        else:
            items.append(fragment.expression or fragment.text)
            kinds.append(kind)
    return items, tuple(kinds)


def _filled(rendering: _Rendering, messages: Messages) -> Rendered:
    """Return the document that a recorded rendering gives for `messages`."""
    texts = [item if isinstance(item, str) else item.compute(messages) for item in rendering.outline]
    changed = 0
    for pairs in rendering.differences:
        changed += any(fill(a, messages) != fill(b, messages) for a, b in pairs)
    return Rendered(texts, rendering.kinds, rendering.replies_compared, changed, rendering.messages_dropped)


@contextlib.contextmanager
def _as_format_error() -> Iterator[None]:
    try:
        yield
    except TemplateFailureError as error:
        raise ChatFormatError(str(error)) from None


def read_template(path: Path, tokenizer: Tokenizer, options: TemplateOptions | None = None) -> TemplateFormat:
    """Return the chat format of a template file. Raises ChatFormatError if the file or its template is unusable."""
    return TemplateFormat(template_source(path), str(path), tokenizer, options)
