"""The one record type of the pipeline: a conversation is a tuple of messages. (SHARED with the converter)

    Conversation((Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello.")))
    call = Message(Role.ASSISTANT, "", fields={"tool_calls": [...]})
    Conversation((Message(Role.USER, "Weather in Oslo?"), call), tools=[...])

Sources make conversations, and chat formats render them. Both types are named tuples because a build makes millions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pretokenizer.chat.roles import Role


class Message(NamedTuple):
    """One message, neither trimmed nor escaped. A context message precedes the reply that uses it."""

    role: Role
    """Who speaks: SYSTEM, USER, ASSISTANT, CONTEXT or TOOL."""
    text: str
    """What a chat template reads as `content`; "" where a message holds nothing but tool calls."""
    train: bool | None = None
    """Whether the message gets loss; None leaves that to its role."""
    fields: Mapping[str, Any] | None = None
    """Further keys for the chat template, as JSON values: `tool_calls`, `reasoning_content`, `name`, `tool_call_id`.

    A `content` here replaces `text` for the template (a list of parts, for example).
    """

    @property
    def stored_role(self) -> Role:
        """Return the role id of the message's tokens on disk: `train` decides between the two assistant roles.

        >>> Message(Role.USER, "a", train=True).stored_role, Message(Role.TOOL, "b", train=False).stored_role
        (<Role.ASSISTANT: 2>, <Role.ASSISTANT_NO_LOSS: 4>)
        """
        if self.train is None:
            return self.role
        return Role.ASSISTANT if self.train else Role.ASSISTANT_NO_LOSS


class Conversation(NamedTuple):
    """One conversation."""

    messages: tuple[Message, ...]
    lang: str | None = None
    """ISO code of the language, where the record names one."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """JSON schemas of the tools that the assistant may call, as a chat template reads them."""
    is_plain: bool = False
    """Whether the document is the text of the only message, without a chat format, and the end-of-text token."""


def pair(question: str, answer: str) -> tuple[Message, Message]:
    """Return a question and its answer as two messages."""
    return (Message(Role.USER, question), Message(Role.ASSISTANT, answer))
