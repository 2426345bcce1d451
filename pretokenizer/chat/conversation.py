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
    """One message of a conversation. Its text is neither stripped nor escaped. A context message precedes its reply."""

    role: Role
    """Role of the speaker: SYSTEM, USER, ASSISTANT, CONTEXT or TOOL."""
    text: str
    """The message's text, which a chat template reads as `content`; "" for a message that holds only tool calls."""
    train: bool | None = None
    """Whether the message gets loss. None lets the role decide: only assistant messages get loss."""
    fields: Mapping[str, Any] | None = None
    """Further keys for the chat template, as JSON values: `tool_calls`, `reasoning_content`, `name`, `tool_call_id`.

    A key `content` replaces `text` for the template, for example by a list of parts.
    """

    @property
    def stored_role(self) -> Role:
        """Return the role that the message's tokens have on disk.

        It is ASSISTANT if `train` is true, ASSISTANT_NO_LOSS if `train` is false, else `role`.

        >>> Message(Role.USER, "a", train=True).stored_role, Message(Role.TOOL, "b", train=False).stored_role
        (<Role.ASSISTANT: 2>, <Role.ASSISTANT_NO_LOSS: 4>)
        """
        if self.train is None:
            return self.role
        return Role.ASSISTANT if self.train else Role.ASSISTANT_NO_LOSS


class Conversation(NamedTuple):
    """The messages of one conversation, and what a chat format needs to render them as one document."""

    messages: tuple[Message, ...]
    lang: str | None = None
    """ISO code of the conversation's language; None when the record names no language."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """JSON schemas of the tools that the assistant may call, as a chat template reads them."""
    is_plain: bool = False
    """Whether the document is plain text: its only message and the end-of-text token, without a chat format."""


def pair(question: str, answer: str) -> tuple[Message, Message]:
    """Return a question and its answer as a user message and an assistant message."""
    return (Message(Role.USER, question), Message(Role.ASSISTANT, answer))
