"""Which text of a rendered conversation gets loss, and the role that it is stored with.

    turn    the whole turn of the assistant, its header included
    reply   what the model writes after the generation prompt, the end of the turn included
    marks   what stands inside the template's `{% generation %}` marks

A message's `train` overrules all three. Assistant text without loss is stored as ASSISTANT_NO_LOSS.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pretokenizer.chat.conversation import Message
from pretokenizer.chat.rendered import TemplateLoss
from pretokenizer.chat.roles import Role
from pretokenizer.template.fragment import NO_MESSAGE, Fragment


class Placed(NamedTuple):
    """A fragment of rendered text and the role that its tokens have on disk."""

    fragment: Fragment
    role: Role
    is_header: bool
    """Whether the fragment is part of an assistant turn's header, which is in the prompt at inference."""


def place(
    fragments: Sequence[Fragment], messages: Sequence[Message], loss: TemplateLoss, generation_prompt: str
) -> list[Placed]:
    """Return the fragments with the roles that their tokens have on disk.

    `loss` says which text of the assistant gets loss. A fragment that contains the end of an assistant turn's header is
    split there; the header is the generation prompt if the turn begins with it.
    """
    placed = []
    left = header_lengths(fragments, messages, generation_prompt)
    for fragment in fragments:
        role = stored_role(fragment, messages, loss)
        length = 0 if fragment.is_data else min(left.get(fragment.message, 0), len(fragment.text))
        if length:
            left[fragment.message] -= length
            header_role = Role.ASSISTANT_NO_LOSS if loss == "reply" and role is Role.ASSISTANT else role
            placed.append(Placed(fragment._replace(text=fragment.text[:length]), header_role, True))
            fragment = fragment._replace(text=fragment.text[length:])
        if fragment.text or fragment.is_data:
            placed.append(Placed(fragment, role, False))
    return placed


def stored_role(fragment: Fragment, messages: Sequence[Message], loss: TemplateLoss) -> Role:
    """Return the role that the tokens of a fragment have on disk under the option `loss`.

    In the header of an assistant turn, `place` may choose ASSISTANT_NO_LOSS instead.
    """
    message = None if fragment.message == NO_MESSAGE else messages[fragment.message]
    if loss == "marks":
        if fragment.is_marked:
            return Role.ASSISTANT_NO_LOSS if message is not None and message.train is False else Role.ASSISTANT
        if message is not None and message.role is Role.ASSISTANT:
            return Role.ASSISTANT_NO_LOSS
    return Role.SYSTEM if message is None else message.stored_role


def header_lengths(
    fragments: Sequence[Fragment], messages: Sequence[Message], generation_prompt: str
) -> dict[int, int]:
    """Map the number of each assistant message to the length of its turn's header in characters.

    The header is the generation prompt if the turn begins with it, else all template text before the message.
    """
    leading: dict[int, str] = {}
    has_data: set[int] = set()
    for fragment in fragments:
        number = fragment.message
        if fragment.is_data:
            has_data.add(number)
        elif number != NO_MESSAGE and number not in has_data and messages[number].role is Role.ASSISTANT:
            leading[number] = leading.get(number, "") + fragment.text
    return {
        number: len(generation_prompt) if text.startswith(generation_prompt) else len(text)
        for number, text in leading.items()
    }
