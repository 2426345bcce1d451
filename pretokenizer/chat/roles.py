"""The role table, the only one: what the numbers in `-role.bin` mean.

Every token of a document carries the role of the turn it belongs to, template tokens included. The trainer takes
its loss from `ASSISTANT` alone.

    >>> Role.ASSISTANT
    <Role.ASSISTANT: 2>
    >>> Role(4).gets_loss
    False

Source of 0 to 3: LAION-AI/Open-Assistant f1e6ed9 (0 system, 1 prompter, 2 assistant, 3 context). 4 is ours: an
assistant message that its record marks `train: false` or `weight: 0`.
"""

from enum import IntEnum


class Role(IntEnum):
    """Role id of a token, as stored on disk."""

    SYSTEM = 0
    USER = 1
    ASSISTANT = 2
    CONTEXT = 3
    ASSISTANT_NO_LOSS = 4

    @property
    def gets_loss(self) -> bool:
        """Whether the trainer learns to predict tokens of this role."""
        return self is Role.ASSISTANT

    @property
    def template_name(self) -> str:
        """The name a chat template prints: system, user, assistant or context."""
        return _TEMPLATE_NAMES[self]

    @property
    def is_assistant(self) -> bool:
        """Whether a model speaks, with loss or without."""
        return self in (Role.ASSISTANT, Role.ASSISTANT_NO_LOSS)


_TEMPLATE_NAMES = {
    Role.SYSTEM: "system",
    Role.USER: "user",
    Role.ASSISTANT: "assistant",
    Role.CONTEXT: "context",
    Role.ASSISTANT_NO_LOSS: "assistant",
}
