"""Conversations in the usual open forms, for any data of one's own: `messages`, `sharegpt`, `prompt_response`, `ikala`.

`{"messages": [{"role": "user", "content": "..."}]}`, `{"conversations": [{"from": "human", "value": "..."}]}` or
`{"prompt": "...", "response": "..."}` (for `prompt` also `instruction` and `input`, for `response` also `completion`
and `output`; `system` may stand beside them); each reader takes all three. An assistant message with `"train": false`
or `"weight": 0` is kept, and gets no loss.
"""

from dataclasses import dataclass
from typing import Any

from pretokenizer.chat.conversation import ROLE_OF_NAME, Conversation, Message
from pretokenizer.chat.roles import Role
from pretokenizer.records.json_text import Record
from pretokenizer.sources.source import BadRecord, Converted, Source

_ANSWERS = ("response", "completion", "output")


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
        """Conversations without an assistant's reply are left out. Wrong are: unknown roles, messages without text,
        a speaker twice in a row, a system message after the start, a weight other than 0 and 1.
        """
        turns, role_key, text_key = _turns_of(record)
        messages: list[Message] = []
        has_reply = False
        speaker = None
        for turn in turns:
            train: bool | None = None
            role, text = ROLE_OF_NAME.get(turn[role_key]), turn.get(text_key)
            if role is None:
                return BadRecord("unknown role", repr(turn[role_key])[:80])
            if text.__class__ is not str and (text := _joined_parts(text)) is None:
                return BadRecord("message without text")
            if not text:
                return BadRecord("empty message")
            if role is speaker:
                return BadRecord("roles do not alternate", f"two messages of the {role.template_name} in a row")
            if role is not Role.CONTEXT:
                speaker = role
            if role is Role.ASSISTANT:
                has_reply = True
                if ("train" in turn or "weight" in turn) and not _has_loss(turn):
                    train = False
            elif role is Role.SYSTEM and messages:
                return BadRecord("system message after the start")
            messages.append(Message(role, text, train))
        if not has_reply:
            return "no assistant message"
        lang = record.get("lang") or record.get("language") or self.options.lang
        return [Conversation(tuple(messages), lang if isinstance(lang, str) else None)]


def _has_loss(turn: dict[str, Any]) -> bool:
    """Of `train` and `weight`; null is as good as absent (parquet has it where other messages have the key).

    Raises ValueError for other labels than there are.
    """
    train, weight = turn.get("train"), turn.get("weight")
    if train not in (None, True, False):
        raise ValueError("`train` is neither true nor false")
    if weight not in (None, 0, 1):
        raise ValueError("`weight` is neither 0 nor 1")
    return train is not False and weight != 0


def _turns_of(record: Record) -> tuple[list[dict[str, Any]], str, str]:
    """(turns, key of the role, key of the text) of a record in any of the forms."""
    if "messages" in record:
        turns, role_key, text_key = record["messages"], "role", "content"
    elif "conversations" in record:
        turns = record["conversations"]
        role_key, text_key = ("from", "value") if turns and "from" in turns[0] else ("role", "content")
    elif "prompt" in record or "instruction" in record:
        question = record["prompt"] if "prompt" in record else _request(record)
        answer = next((record[key] for key in _ANSWERS if key in record), None)
        marks = {key: record[key] for key in ("train", "weight") if key in record}
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **marks}]
        role_key, text_key = "role", "content"
    else:
        raise KeyError("messages")
    if not isinstance(turns, list):
        raise TypeError("the messages are no list")
    if record.get("system"):
        turns = [{role_key: "system", text_key: record["system"]}, *turns]
    return turns, role_key, text_key


def _request(record: Record) -> Any:
    """Instruction and input, joined by a line feed when there is an input."""
    return f"{record['instruction']}\n{record['input']}" if record.get("input") else record["instruction"]


def _joined_parts(content: Any) -> str | None:
    """The text of a list of text parts."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    return None


class ShareGPT(Messages):
    """The same reader under the name of its usual form."""


class PromptResponse(Messages):
    """The same reader under the name of its usual form."""


class Ikala(Messages):
    """The redpajama card's internal set: give conversations of your own."""
