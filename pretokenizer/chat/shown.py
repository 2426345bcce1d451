"""Convert messages to the dicts that a chat template reads, exactly as transformers does."""

import re
from collections.abc import Hashable
from typing import Any

from pretokenizer.chat.conversation import Conversation, Message

MAX_MESSAGES = 64
"""Conversations with more messages get no shape, because few others would share it."""
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_ROLE = re.compile(r"[A-Za-z_-]+")


def shown(message: Message) -> dict[str, Any]:
    """Return a message as the dict that a chat template reads: role, content and its fields, without null values.

    Reasoning stands under both `reasoning_content` and `thinking`, whichever name the record uses. A field `role`
    replaces the role's name, for templates that know more roles, such as `developer`.
    """
    found: dict[str, Any] = {"role": message.role.template_name, "content": message.text}
    if message.fields is None:
        return found
    found = {key: value for key, value in {**found, **message.fields}.items() if value is not None}
    if not isinstance(found["role"], str) or not _ROLE.fullmatch(found["role"]):
        found["role"] = message.role.template_name  # the role's name may become a part of a control token
    reasoning = next((found[key] for key in _REASONING_FIELDS if key in found), None)
    return found if reasoning is None else {"thinking": reasoning, **found, "reasoning_content": reasoning}


def plain_shape(conversation: Conversation) -> Hashable | None:
    """Return the shape of a conversation without tools and `fields`: (role, train) of each message.

    A rendering may be reused for conversations of the same shape. Return None if the conversation has tools, `fields`,
    or more than MAX_MESSAGES messages.
    """
    if conversation.tools is not None or len(conversation.messages) > MAX_MESSAGES:
        return None
    shape = [(role, train) for role, _, train, fields in conversation.messages if fields is None]
    return tuple(shape) if len(shape) == len(conversation.messages) else None


def shape_of(conversation: Conversation, messages: list[dict[str, Any]]) -> Hashable | None:
    """Return a conversation's shape: the roles and field names of its messages, under which renderings are recorded.

    `messages` are the conversation's, as `shown` returns them. Return None if the rendering depends on more than the
    shape and the texts (tools, or fields that are not text), or if there are more than MAX_MESSAGES messages.
    """
    if conversation.tools is not None or len(messages) > MAX_MESSAGES:
        return None
    shape: list[Hashable] = []
    for message, keys in zip(conversation.messages, messages, strict=True):
        if message.fields is None:
            shape.append((message.role, message.train))
        elif all(isinstance(value, str) for value in keys.values()):
            shape.append((keys["role"], message.role, message.train, *keys))
        else:
            return None
    return tuple(shape)
