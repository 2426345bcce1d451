"""Which tokens of a conversation get loss, by this build and by the rules of others.

    build     the roles that this build writes
    marks     tokens inside the template's `{% generation %}` marks
    trl       TRL's `assistant_only_loss`: tokens that touch a mark, as transformers' `assistant_masks` has them
    prefix    what follows the served prompt, for each reply: the rendering up to the reply minus that before it

The last three read the chat template, and have no answer where it has no marks or renders another text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.conversation import Conversation
from pretokenizer.chat.probe import tokens_of
from pretokenizer.chat.roles import Role
from pretokenizer.chat.shown import shown
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.tasks.context import BuildContext
from pretokenizer.template.rendering import CompiledTemplate, TemplateFailureError

RULES = ("build", "marks", "trl", "prefix")
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Audited:
    """One conversation with N tokens, and the mask of each rule."""

    pieces: list[str]
    """The text of each token."""
    masks: dict[str, Mask]
    """Rule -> (N,) whether each token gets loss; a rule without an answer is absent."""
    problems: dict[str, str]
    """Rule -> why it has no answer."""

    @property
    def differs(self) -> bool:
        """Whether two rules disagree about a token."""
        masks = list(self.masks.values())
        return any(not np.array_equal(masks[0], mask) for mask in masks[1:])


class LossAudit:
    """Applies every rule to conversations of one build."""

    def __init__(self, context: BuildContext) -> None:
        config, source = context.config, context.chat_format.hf_chat_template
        encode_special = config.special_tokens_in_text == "encode"
        self._reference = ReferencePass(context.tokenizer, context.chat_format, encode_special)
        self._encode_special = encode_special
        tokens = tokens_of(context.tokenizer)
        self._template = CompiledTemplate(source, context.chat_format.name, tokens, config.template_date)
        self._has_marks = "endgeneration" in source

    def audit(self, conversation: Conversation) -> Audited:
        """Return the mask of each rule. Raises ChatFormatError for a conversation that the format cannot express."""
        rendered = self._reference.render(conversation)
        batch = self._reference.encode_rendered([rendered])
        build = np.repeat(batch.turn_roles, batch.turn_sizes) == Role.ASSISTANT
        text = rendered.text
        ends = np.cumsum([len(piece) for piece in rendered.texts]).tolist()
        begins = [0, *ends[:-1]]
        spans = zip(begins, ends, rendered.kinds, strict=True)
        data = [(begin, end) for begin, end, kind in spans if kind.is_data and end > begin]
        aligned = self._reference.tokenizer.align(text, [] if self._encode_special else data)
        own_begins, own_ends = np.array(aligned.begins, np.int64), np.array(aligned.ends, np.int64)
        masks, problems = {"build": build}, {}
        rules: dict[str, tuple[Callable[[Conversation, str], Mask], bool]] = {
            "marks": (self._marked, False),
            "trl": (self._marked, True),
            "prefix": (self._after_prompts, False),
        }
        for name, (rule, touching) in rules.items():
            try:
                masks[name] = _token_mask(rule(conversation, text), own_begins, own_ends, touching)
            except (TemplateFailureError, LookupError) as error:
                problems[name] = str(error.args[0] if error.args else error)
        pieces = [text[begin:end] for begin, end in zip(aligned.begins, aligned.ends, strict=True)]
        return Audited(pieces, masks, problems)

    def _marked(self, conversation: Conversation, text: str) -> Mask:
        """Return the characters inside generation marks. Raises LookupError without marks, or for another text."""
        if not self._has_marks:
            raise LookupError("the chat template has no {% generation %} marks")
        fragments = self._template.fragments(_messages(conversation), conversation.tools)
        if "".join(fragment.text for fragment in fragments) != text:
            raise LookupError("the chat template renders another text than this build writes")
        flags = [fragment.is_marked for fragment in fragments]
        return np.repeat(np.array(flags, dtype=bool), [len(fragment.text) for fragment in fragments])

    def _after_prompts(self, conversation: Conversation, text: str) -> Mask:
        """Return the characters that follow a served prompt. Raises LookupError where renderings do not continue."""
        messages, mask = _messages(conversation), np.zeros(len(text), dtype=bool)
        for number, message in enumerate(conversation.messages):
            if message.role is not Role.ASSISTANT or number == 0:
                continue
            prompt = self._template.text(messages[:number], conversation.tools, True)
            reply = self._template.text(messages[: number + 1], conversation.tools)
            if not text.startswith(reply) or not reply.startswith(prompt):
                raise LookupError(f"the rendering up to message {number + 1} is not the start of the whole text")
            mask[len(prompt) : len(reply)] = True
        return mask


def _messages(conversation: Conversation) -> Sequence[dict[str, Any]]:
    return [shown(message) for message in conversation.messages]


def _token_mask(characters: Mask, begins: NDArray[np.int64], ends: NDArray[np.int64], touching: bool) -> Mask:
    """Return whether each token has loss: all its characters do or, with `touching`, one of them.

    A token without characters, SentencePiece's dummy prefix, goes with the character after it.

    >>> _token_mask(np.array([False, True, True]), np.array([0, 2]), np.array([2, 3]), False)
    array([False,  True])
    """
    sums = np.append(0, np.cumsum(characters))
    ends = np.minimum(np.maximum(ends, begins + 1), characters.size)
    covered = sums[ends] - sums[begins]
    mask: Mask = covered > 0 if touching else covered == ends - begins
    return mask
