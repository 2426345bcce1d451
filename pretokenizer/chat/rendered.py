"""What a chat format makes of a conversation: text in pieces, each of one role and one kind of origin."""

from typing import Literal, NamedTuple

from pretokenizer.chat.roles import Role

TemplateLoss = Literal["turn", "reply", "marks"]
"""Which text of the assistant gets loss; see loss.py."""


class Piece(NamedTuple):
    """Characters that belong to one role."""

    text: str
    role: Role
    """As stored on disk."""
    is_data: bool
    """Whether the text is a message's (or a tool's) rather than the format's. A control token in it stays text."""


class Rendered(NamedTuple):
    """One document before encoding."""

    pieces: tuple[Piece, ...]
    replies_compared: int = 0
    """Replies with loss whose prompt was compared with the prompt that is served at that moment."""
    prompts_changed: int = 0
    """Those whose prompt in this document is another than the served one."""
    messages_dropped: int = 0
    """Messages with text that the template does not show."""

    @property
    def text(self) -> str:
        """Return the text that the model sees."""
        return "".join([piece.text for piece in self.pieces])
