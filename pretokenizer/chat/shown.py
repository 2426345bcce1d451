"""Messages as a chat template sees them, exactly as transformers shows them."""

import re
from collections.abc import Hashable
from typing import Any

from pretokenizer.chat.conversation import Conversation, Message

MAX_MESSAGES = 64
"""Longer conversations rarely repeat a shape."""
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_ROLE = re.compile(r"[A-Za-z_-]+")


def shown(message: Message) -> dict[str, Any]:
    """Return the keys of a message: role, content and its fields, without those that are null.

    Reasoning stands under `reasoning_content` and `thinking`, whichever name the record has. A field `role` replaces
    the role's name, for templates that know more roles, such as `developer`.
    """
    found: dict[str, Any] = {"role": message.role.template_name, "content": message.text}
    if message.fields is None:
        return found
    found = {key: value for key, value in {**found, **message.fields}.items() if value is not None}
    if not isinstance(found["role"], str) or not _ROLE.fullmatch(found["role"]):
        found["role"] = message.role.template_name  # the role's name may become a part of a control token
    reasoning = next((found[key] for key in _REASONING_FIELDS if key in found), None)
    return found if reasoning is None else {"thinking": reasoning, **found, "reasoning_content": reasoning}


def shape_of(conversation: Conversation, messages: list[dict[str, Any]]) -> Hashable | None:
    """Return what decides a rendering besides the messages' texts; None if that is more than roles and names of fields.

    `messages` are those of the conversation as shown.
    """
    if conversation.tools is not None or len(messages) > MAX_MESSAGES:
        return None
    shape = []
    for message, keys in zip(conversation.messages, messages, strict=True):
        if message.fields is None:
            shape.append((message.role, message.train))
        elif all(isinstance(value, str) for value in keys.values()):
            shape.append((keys["role"], message.role, message.train, *keys))
        else:
            return None
    return tuple(shape)
