"""A rendered conversation: pieces of text, each with one role and one origin (a message, or the chat format)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pretokenizer.chat.roles import Role

TemplateLoss = Literal["turn", "reply", "marks"]
"""Which text of the assistant gets loss: whole turns, replies, or marked text (loss.py)."""


class Kind(NamedTuple):
    """Role and origin of a piece of rendered text."""

    role: Role
    """The role that the piece's tokens have on disk."""
    is_data: bool
    """Whether the text comes from a message or a tool, and not from the format. Control tokens in data stay text."""


class Rendered(NamedTuple):
    """One document before encoding: pieces of text with their kinds, and counts for the reports."""

    texts: Sequence[str]
    kinds: Sequence[Kind]
    """The kind of each piece in `texts`. Documents may share this sequence."""
    replies_compared: int = 0
    """Number of replies with loss that were compared with their rendering at inference."""
    replies_skipped: int = 0
    """Number of replies with loss that were not compared, because the conversation is long (served.py)."""
    replies_changed: int = 0
    """Number of compared replies whose prompt, or whose visible parts, differ between this document and inference."""
    messages_dropped: int = 0
    """Number of messages whose text the template leaves out."""

    @property
    def text(self) -> str:
        """Return the document's whole text."""
        return "".join(self.texts)
