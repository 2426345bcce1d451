"""The one record type of the pipeline: a conversation is a tuple of messages.

    conversation = Conversation((Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello.")))

Sources make it, chat formats render it. Messages are plain named tuples because millions of them are made.
"""

from typing import NamedTuple

from pretokenizer.chat.roles import Role

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


class Message(NamedTuple):
    """One message, its text neither trimmed nor escaped. A context stands before the reply that uses it."""

    role: Role
    text: str


class Conversation(NamedTuple):
    """One conversation; `lang` is an ISO code where the record has one."""

    messages: tuple[Message, ...]
    lang: str | None = None


def pair(question: str, answer: str) -> tuple[Message, Message]:
    """A question and its answer."""
    return (Message(Role.USER, question), Message(Role.ASSISTANT, answer))
