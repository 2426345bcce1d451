"""Compute which tokens of a conversation get loss under four rules: the build's own rule and three common ones.

    build     tokens to which this build gives the role `assistant`
    marks     tokens that lie entirely inside the chat template's `{% generation %}` marks
    trl       TRL's `assistant_only_loss`: tokens with a character inside the marks (transformers' `assistant_masks`)
    prefix    tokens of a reply: those after the prompt that a server renders from the earlier messages

The last three rules need the chat template. They give no result for a template without marks (`marks` and `trl`), or if
the template renders a text that differs from the build's.
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
    """One conversation of N tokens, and for each rule the mask of the tokens that get loss."""

    pieces: list[str]
    """The text of each of the N tokens."""
    masks: dict[str, Mask]
    """Name of a rule -> (N,) whether each token gets loss. A rule that gives no result is absent."""
    problems: dict[str, str]
    """Name of a rule without a result -> why it has none."""
    straddling: int = 0
    """Number of tokens that get no loss in the build although a part of their text is in a reply (token_roles.py)."""

    @property
    def differs(self) -> bool:
        """Whether two rules disagree about the loss of any token."""
        masks = list(self.masks.values())
        return any(not np.array_equal(masks[0], mask) for mask in masks[1:])


class LossAudit:
    """Computes the loss masks of conversations under every rule, with the tokenizer and chat format of one build."""

    def __init__(self, context: BuildContext) -> None:
        config, source = context.config, context.chat_format.hf_chat_template
        encode_special = config.special_tokens_in_text == "encode"
        self._reference = ReferencePass(context.tokenizer, context.chat_format, encode_special)
        self._encode_special = encode_special
        tokens = tokens_of(context.tokenizer)
        self._template = CompiledTemplate(source, context.chat_format.name, tokens, config.template_date)
        self._has_marks = "endgeneration" in source

    def audit(self, conversation: Conversation) -> Audited:
        """Return the tokens of a conversation and their loss mask under each rule.

        Raises ChatFormatError for a conversation that the chat format cannot express.
        """
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
        return Audited(pieces, masks, problems, int(batch.straddling_counts.sum()))

    def _marked(self, conversation: Conversation, text: str) -> Mask:
        """Return a mask of the characters of `text` that are inside the template's `{% generation %}` marks.

        Raises LookupError if the template has no marks or renders a text that differs from `text`.
        """
        if not self._has_marks:
            raise LookupError("the chat template has no {% generation %} marks")
        fragments = self._template.fragments(_messages(conversation), conversation.tools)
        if "".join(fragment.text for fragment in fragments) != text:
            raise LookupError("the chat template renders another text than this build writes")
        flags = [fragment.is_marked for fragment in fragments]
        return np.repeat(np.array(flags, dtype=bool), [len(fragment.text) for fragment in fragments])

    def _after_prompts(self, conversation: Conversation, text: str) -> Mask:
        """Return a mask of the characters of `text` that belong to replies: those after the prompt served for a reply.

        Raises LookupError if the rendering up to a reply is not the start of `text`, or does not start with its prompt.
        """
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
    """Return (N,) whether each token gets loss, from the mask `characters` of the characters that get loss.

    Token i has the characters [begins[i], ends[i]). It gets loss if all of them do or, with `touching`, if one does. A
    token without characters (SentencePiece's dummy prefix) gets loss like the character after it.

    >>> _token_mask(np.array([False, True, True]), np.array([0, 2]), np.array([2, 3]), False)
    array([False,  True])
    """
    sums = np.append(0, np.cumsum(characters))
    ends = np.minimum(np.maximum(ends, begins + 1), characters.size)
    covered = sums[ends] - sums[begins]
    mask: Mask = covered > 0 if touching else covered == ends - begins
    return mask
