"""Conversations in the usual open forms, for any data of one's own: `messages`, `sharegpt`, `prompt_response`, `ikala`.

`{"messages": [{"role": "user", "content": "..."}, ...]}`, `{"conversations": [{"from": "human", "value": "..."}]}` or
`{"prompt": "...", "response": "..."}` (also `completion`, and `system` beside them); each reader takes all three. An
assistant message with `"train": false` or `"weight": 0` is kept, and gets no loss.
"""

from dataclasses import dataclass
from typing import Any

from pretokenizer.conversation import ROLE_OF_NAME, Conversation, Message
from pretokenizer.record_files import Record
from pretokenizer.roles import Role
from pretokenizer.sources.source import Converted, Source


@dataclass(frozen=True)
class MessagesOptions:
    """What a section may set."""

    input_file_path: str | None = None
    lang: str | None = None


class Messages(Source):
    """A generic conversation reader."""

    class_name = "ConversationDataset"
    shows_name = True
    Options = MessagesOptions

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Conversations without an assistant's reply, or with an empty message, are left out and counted."""
        messages = _messages_of(record)
        if isinstance(messages, str):
            return messages
        if not any(message.role.is_assistant for message in messages):
            return "no assistant message"
        if any(not message.text for message in messages):
            return "empty message"
        if any(message.role is Role.SYSTEM for message in messages[1:]):
            return "system message after the start"
        return [Conversation(tuple(messages), record.get("lang") or record.get("language") or self.options.lang)]


def _messages_of(record: Record) -> list[Message] | str:
    """The messages of a record in any of the forms, or why there are none."""
    if "messages" in record:
        turns = [(m["role"], m.get("content"), m) for m in record["messages"]]
    elif "conversations" in record:
        turns = [(m.get("from", m.get("role")), m.get("value", m.get("content")), m) for m in record["conversations"]]
    elif "prompt" in record:
        answer = record["response"] if "response" in record else record["completion"]
        turns = [("user", record["prompt"], {}), ("assistant", answer, record)]
    else:
        raise KeyError("messages")
    system = record.get("system")
    if system:
        turns.insert(0, ("system", system, {}))
    messages = []
    for name, text, marks in turns:
        role = ROLE_OF_NAME.get(name)
        if role is None:
            return f"unknown role {name!r}"
        text = _plain_text(text)
        if text is None:
            return "message without text"
        messages.append(Message(_role_with_loss(role, marks), text))
    return messages


def _role_with_loss(role: Role, marks: dict[str, Any]) -> Role:
    if role is Role.ASSISTANT and (marks.get("train") is False or marks.get("weight", 1) == 0):
        return Role.ASSISTANT_NO_LOSS
    return role


def _plain_text(content: Any) -> str | None:
    """A string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    return None


class ShareGPT(Messages):
    """The same reader under the name of its usual form."""


class PromptResponse(Messages):
    """The same reader under the name of its usual form."""


class Ikala(Messages):
    """The redpajama card's internal set: give conversations of your own."""
