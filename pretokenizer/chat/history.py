"""The option `history`: how much of a conversation one document holds.

    full      one document: the whole conversation, as `apply_chat_template` renders it
    unroll    one document for each reply with loss: the prompt that is served at that moment, and the reply

Some chat templates rewrite the past: they drop the thoughts of earlier replies, or move the system message. `full` then
trains on replies after prompts that are never served. `unroll` does not, at the price of repeated prompts.
"""

from typing import Literal

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.roles import Role

History = Literal["full", "unroll"]


def unroll(conversation: Conversation) -> list[Conversation]:
    """Return one conversation for each message with loss. It ends with that message, and only that one has loss."""
    found: list[Conversation] = []
    past: list[Message] = []
    for message in conversation.messages:
        has_loss = message.stored_role is Role.ASSISTANT
        if has_loss:
            found.append(conversation._replace(messages=(*past, message)))
        past.append(message._replace(train=False) if has_loss else message)
    return found
