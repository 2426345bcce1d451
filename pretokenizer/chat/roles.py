"""The only role table: what the numbers in `-role.bin` mean. (SHARED with trainer and converter)

Every token of a document carries the role of the message it belongs to, template tokens included. The trainer takes
its loss from `ASSISTANT` alone unless `--loss_roles` names others.

    >>> Role.ASSISTANT
    <Role.ASSISTANT: 2>
    >>> Role(4).gets_loss
    False

0 to 3 come from LAION-AI/Open-Assistant f1e6ed9 (0 system, 1 prompter, 2 assistant, 3 context). 4 and 5 are this
project's; a reader that does not know them does not train on them.
"""

from enum import IntEnum


class Role(IntEnum):
    """Role id of a token, as stored in `-role.bin`."""

    SYSTEM = 0
    USER = 1
    ASSISTANT = 2
    """Text that the model learns to write. A message of any role whose record says `train: true` has this id too."""
    CONTEXT = 3
    ASSISTANT_NO_LOSS = 4
    """Text without loss: a message whose record says `train: false`, or a reply's header that is in the prompt."""
    TOOL = 5
    """The result of a tool call."""

    __hash__ = int.__hash__  # Enum's own __hash__ is slow Python code

    @property
    def gets_loss(self) -> bool:
        """Return whether the trainer learns to predict tokens of this role by default."""
        return self is Role.ASSISTANT

    @property
    def template_name(self) -> str:
        """Return the role's name in a chat template: system, user, assistant, context or tool."""
        return _TEMPLATE_NAMES[self]


_TEMPLATE_NAMES = {
    Role.SYSTEM: "system",
    Role.USER: "user",
    Role.ASSISTANT: "assistant",
    Role.CONTEXT: "context",
    Role.ASSISTANT_NO_LOSS: "assistant",
    Role.TOOL: "tool",
}
MESSAGE_ROLES = tuple(role for role in Role if role is not Role.ASSISTANT_NO_LOSS)
"""Roles that a message can have. ASSISTANT_NO_LOSS exists only as a role of tokens."""
