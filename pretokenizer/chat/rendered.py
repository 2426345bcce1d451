"""What a chat format makes of a conversation: text in pieces, each of one role and one kind of origin."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pretokenizer.chat.roles import Role

TemplateLoss = Literal["turn", "reply", "marks"]
"""Which text of the assistant gets loss; see loss.py."""


class Kind(NamedTuple):
    """What is true of every character of a piece."""

    role: Role
    """The role that its tokens are stored with."""
    is_data: bool
    """Whether the text is a message's (or a tool's) rather than the format's. A control token in it stays text."""


class Rendered(NamedTuple):
    """One document before encoding."""

    texts: Sequence[str]
    kinds: Sequence[Kind]
    """The kind of each text. Renderings of conversations of one shape share it."""
    replies_compared: int = 0
    """Replies with loss that were compared with the moment at which they are served."""
    replies_changed: int = 0
    """Those that follow another prompt in this document, or of which the template shows other parts."""
    messages_dropped: int = 0
    """Messages with text that the template does not show."""

    @property
    def text(self) -> str:
        """Return the text that the model sees."""
        return "".join(self.texts)
