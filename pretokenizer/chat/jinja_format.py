"""Any Jinja chat template as a chat format: `--chat_format my_template.jinja`. (SHARED with the converter)

The text equals that of transformers' `apply_chat_template`. The template runs on strings that record their origin
(pretokenizer/template), so the role of every character is known. A template tests its messages, for example
`message.role == "user"`. A rendering is recorded, and reused for conversations in which all tests have the same result.
"""

import contextlib
from collections.abc import Hashable, Iterator, Sequence
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
from pretokenizer.chat.served import Document, Pairs, chosen, compare
from pretokenizer.chat.shown import plain_shape, shape_of, shown
from pretokenizer.chat.template_source import template_source
from pretokenizer.template.expression import Expression, Messages, Recording
from pretokenizer.template.fragment import Fragment, Outline, fill, text_of
from pretokenizer.template.recorded import RecordedRenderings
from pretokenizer.template.rendering import CompiledTemplate, TemplateFailureError
from pretokenizer.tokenizer.base import Tokenizer

DEFAULT_DATE = "2025-01-01"
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


class _Rendering(NamedTuple):
    """A finished rendering, which can be filled with the texts of other conversations. Rendered explains the counts."""

    outline: Outline
    """The fixed texts of the document and the expressions that compute its other texts from the messages, in order."""
    kinds: tuple[Kind, ...]
    """The kind (role and origin) of each item of `outline`."""
    differences: list[Pairs]
    """For each compared reply: pairs (text in this document, text at inference). It changed if a pair differs."""
    replies_compared: int
    replies_skipped: int
    messages_dropped: int


class _Simple(NamedTuple):
    """A rendering that consists of fixed texts and unchanged contents of messages only.

    It fits all conversations of one shape, which have the same roles and the same `train` values.
    """

    texts: list[str]
    """The pieces of the document, with "" in place of contents."""
    contents: list[tuple[int, int]]
    """For each content in the document: (index of its piece, index of its message)."""
    empty: Rendered
    """The document with "" in place of contents."""

    def filled(self, messages: Sequence[Message]) -> Rendered:
        """Return the document that the rendering gives for `messages`."""
        texts = self.texts.copy()
        for piece, number in self.contents:
            texts[piece] = messages[number].text
        return self.empty._replace(texts=texts)


class TemplateFormat(ChatFormat):
    """A chat template as a chat format, with the BOS and EOS tokens of one tokenizer."""

    name = "jinja"
    special_tokens = ()

    def __init__(self, source: str, path: str, tokenizer: Tokenizer, options: TemplateOptions | None = None) -> None:
        """Compile the Jinja text `source` and try it. `path` names the template in messages.

        Raises ChatFormatError if the template fails, or lacks the marks that `options` need.
        """
        options = options or TemplateOptions()
        has_marks = "endgeneration" in source
        if options.loss == "marks" and not has_marks:
            raise ChatFormatError(f"{path}: --template_loss marks, but the template has no {{% generation %}} marks")
        self.hf_chat_template, self.path, self.history = source, path, options.history
        self.loss = options.loss or ("marks" if has_marks else "turn")
        self._recorded: RecordedRenderings[_Rendering] = RecordedRenderings()
        self._simple: dict[Hashable, _Simple] = {}
        self._num_new = 0
        with _as_format_error():
            self._template = CompiledTemplate(source, path, tokens_of(tokenizer), options.date)
            found = probe(self._template, tokenizer, self.loss)
        self.generation_prompt, self.end_of_turn = found.generation_prompt, found.end_of_turn
        self.warnings = found.warnings

    def render(self, conversation: Conversation) -> Rendered:
        """Return a conversation as pieces of text with roles. Raises ChatFormatError if the template refuses it."""
        shape = plain_shape(conversation)
        simple = self._simple.get(shape)
        if simple is not None:
            return simple.filled(conversation.messages)
        messages = [shown(message) for message in conversation.messages]
        shape = shape_of(conversation, messages) if shape is None else shape
        found = None if shape is None else self._recorded.find(shape, messages)
        if found is None:
            recording = Recording() if shape is not None and self._recorded.is_growing else None
            with _as_format_error():
                found = self._render(conversation, messages, recording)
            if recording is not None and recording.is_exact:
                self._recorded.add(shape, recording, found)
                if not recording.questions and (simple := _simple(found)):
                    self._simple[shape] = simple
        return _filled(found, messages)

    def _render(self, conversation: Conversation, messages: Messages, recording: Recording | None) -> _Rendering:
        """Run the template on one conversation, given as `messages` in the form that templates read.

        Return the finished rendering, and add the template's questions about the texts to `recording`. With history
        `unroll`, the document is the prompt for the last message, without loss, and then this message.
        """
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
            return _Rendering(*_outline([*asked, *reply]), [], 0, 0, dropped)
        here = [item.fragment for item in placed]
        document = Document(self._template, messages, tools, here, text_of(here))
        replies = chosen(starts, len(own))
        found = [compare(document, number, start, recording) for number, start in replies.items()]
        skipped = len(starts) - len(replies)
        return _Rendering(*_outline(placed), [pairs for pairs in found if pairs], len(replies), skipped, dropped)

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
    """Map the number of each assistant message with loss to the index in `placed` at which its reply begins.

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
    """Return the fixed texts and expressions of a rendering, and the kind of each.

    Neighbouring fixed texts of the same kind are joined.
    """
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
    return _document(rendering, texts, changed)


def _document(rendering: _Rendering, texts: list[str], replies_changed: int) -> Rendered:
    """Return the document with the given texts as its pieces, and with the kinds and counts of `rendering`."""
    return Rendered(
        texts,
        rendering.kinds,
        rendering.replies_compared,
        rendering.replies_skipped,
        replies_changed,
        rendering.messages_dropped,
    )


def _simple(rendering: _Rendering) -> _Simple | None:
    """Return a rendering in its simple form; None if it needs more than fixed texts and unchanged contents."""
    if rendering.differences:
        return None
    texts, contents = [], []
    for piece, item in enumerate(rendering.outline):
        if not isinstance(item, str):
            if not (isinstance(item.key, tuple) and len(item.key) == 2 and item.key[1] == "content"):
                return None
            contents.append((piece, item.key[0]))
        texts.append(item if isinstance(item, str) else "")
    return _Simple(texts, contents, _document(rendering, texts, 0))


@contextlib.contextmanager
def _as_format_error() -> Iterator[None]:
    try:
        yield
    except TemplateFailureError as error:
        raise ChatFormatError(str(error)) from None


def read_template(path: Path, tokenizer: Tokenizer, options: TemplateOptions | None = None) -> TemplateFormat:
    """Return the chat format of a template file, with the BOS and EOS tokens of `tokenizer`.

    Raises ChatFormatError if the file or its template is unusable.
    """
    return TemplateFormat(template_source(path), str(path), tokenizer, options)
