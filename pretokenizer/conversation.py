"""The one record type of the pipeline: a conversation is a tuple of messages.

    conversation = Conversation((Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello.")))

Sources make it, chat formats render it. Messages are plain named tuples because millions of them are made.
"""

from collections.abc import Iterable
from typing import NamedTuple

from pretokenizer.roles import Role

ROLE_OF_NAME = {
    "system": Role.SYSTEM,
    "user": Role.USER,
    "prompter": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
    "gpt": Role.ASSISTANT,
    "model": Role.ASSISTANT,
    "context": Role.CONTEXT,
}
"""Role names accepted on input."""


class ConversationError(ValueError):
    """A conversation that cannot be trained on; the message says why."""


class Message(NamedTuple):
    """One message, its text neither trimmed nor escaped. A context stands before the reply that uses it."""

    role: Role
    text: str


class Conversation(NamedTuple):
    """One conversation; `lang` is an ISO code where the record has one, `origin` (file number, row) of its record."""

    messages: tuple[Message, ...]
    lang: str | None = None
    origin: tuple[int, int] = (-1, -1)


def pair(question: str, answer: str) -> tuple[Message, Message]:
    """A question and its answer."""
    return (Message(Role.USER, question), Message(Role.ASSISTANT, answer))


def problem_of(messages: Iterable[Message]) -> str | None:
    """Why these messages are no conversation, or None: at least one message, all of them text, system only first."""
    count = 0
    for count, message in enumerate(messages, 1):
        if not isinstance(message.text, str):
            return f"message {count} has no text"
        if message.role is Role.SYSTEM and count > 1:
            return f"message {count} is a system message after the start"
    return None if count else "the conversation has no messages"
