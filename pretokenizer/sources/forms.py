"""Recognise the form of a record and convert it to turns, which are {role, content}, and tools.

| form | keys |
|---|---|
| conversation | `messages`, `conversations` ...: {role, content}, {from, value}, {input, output}; also as JSON text |
| request and reply | `instruction`, `prompt`, `question` ... with `output`, `completion`, `response`, `answer` ... |
| preference | `chosen` and perhaps `prompt`, with the option `preference: chosen` |

A record may also have `system`, `tools`, `history`, `context`, and keys such as `weight` that give the reply loss or
not.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pretokenizer.records.json_text import Record
from pretokenizer.sources.turns import (
    MARKS,
    REASONING,
    UNSUPPORTED,
    Turn,
    UnusableError,
    refuse_unused,
    role_of,
    tools_of,
    unused_key,
)

_CONVERSATION = ("messages", "conversations", "conversation", "dialogue", "dialog")
_REQUEST = ("prompt", "instruction", "question", "query", "input", "inputs", "problem", "human", "user")
_REPLY = ("completion", "response", "output", "answer", "target", "targets", "solution", "assistant", "gpt")
_SYSTEM = ("system", "system_prompt", "system_message")
_ROLE, _CONTENT = ("role", "from", "speaker"), ("content", "value", "text")
_TOOLS = ("tools", "functions")
_OTHERS = frozenset((*_CONVERSATION, *_REQUEST, *_REPLY, *_SYSTEM, *_TOOLS, *UNSUPPORTED))
_ANTHROPIC = re.compile(r"\n\n(Human|Assistant): ?")
"""Separator of the turns in Anthropic's preference data."""


class Opened(NamedTuple):
    """The turns of a record, each {role, content}, and the tools that the assistant may call."""

    turns: list[Turn]
    tools: list[dict[str, Any]] | None
    used: set[str]
    """Keys of the record from which the turns and tools are read."""


def common_form(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of a simple conversation: (key of the messages,) or (key of the request, key of the reply).

    Return () for a record of another form, or if another of its keys has a meaning.

    >>> common_form(["id", "messages"]), common_form(["question", "answer"]), common_form(["messages", "tools"])
    (('messages',), ('question', 'answer'), ())
    """
    meant = tuple(key for key in (*_CONVERSATION, *_REQUEST, *_REPLY) if key in keys)
    others = {key for key in keys if key.lower() in _OTHERS} - set(meant)
    is_one = len(meant) == 1 and meant[0] in _CONVERSATION
    is_pair = len(meant) == 2 and meant[0] in _REQUEST and meant[1] in _REPLY
    return meant if (is_one or is_pair) and not others else ()


def open_record(record: Record, preference: str | None) -> Opened:
    """Return the turns and tools of a record of any known form. Keys may be in upper case (`INSTRUCTION`).

    `preference` is the key of the preferred reply, if preference pairs are wanted. Raises UnusableError or KeyError for
    a record of an unknown form.
    """
    if preference and record.get(preference) is not None:
        opened = _from_preference(record, preference)
    elif _first(record, ("chosen",)) and _first(record, ("rejected",)):
        raise UnusableError("a preference pair needs the option `preference: chosen`")
    elif key := _first(record, _CONVERSATION):
        opened = _from_conversation(record, key)
    elif (request := _first(record, _REQUEST)) and (reply := _first(record, _REPLY)):
        opened = _from_pair(record, request, reply)
    elif is_plain_text(record):
        raise UnusableError("plain text needs the option `loss: all`")
    elif any(key != key.lower() for key in record) and "Text" not in record:
        lower = open_record({key.lower(): value for key, value in record.items()}, preference)
        return lower._replace(used={key for key in record if key.lower() in lower.used})
    else:
        raise KeyError("messages")
    tools_key = _first(record, _TOOLS)
    opened.used.update(_TOOLS)
    return opened._replace(tools=tools_of(record[tools_key]) if tools_key else None)


def is_plain_text(record: Record) -> bool:
    """Return whether a record holds plain text under the key `text`, and no conversation in another form."""
    keys = {key.lower() for key in record}
    is_pair = not keys.isdisjoint(_REQUEST) and not keys.isdisjoint(_REPLY)
    return isinstance(record.get("text"), str) and keys.isdisjoint((*_CONVERSATION, "chosen")) and not is_pair


def _first(record: Record, keys: Sequence[str]) -> str | None:
    """Return the first of `keys` whose value in the record is not null, or None."""
    return next((key for key in keys if record.get(key) is not None), None)


def _from_conversation(record: Record, key: str) -> Opened:
    turns = turns_of(record[key])
    used = {key, *_SYSTEM}
    for other in _CONVERSATION:
        if other != key and record.get(other) and turns_of(record[other]) != turns:
            raise unused_key(other)
    for other in (*_REQUEST, *_REPLY):  # some data sets repeat the first message beside the messages
        if record.get(other) and all(turn.get("content") != record[other] for turn in turns):
            raise unused_key(other)
    for mark in (*MARKS, "masks"):
        values = record.get(mark)
        if values is None:
            continue
        used.add(mark)
        if isinstance(values, list):
            if len(values) != len(turns):
                raise UnusableError(
                    f"`{mark}` has not one value for each message", f"{len(values)} values, {len(turns)} messages"
                )
            turns = [{"train": value, **turn} for turn, value in zip(turns, values, strict=True)]
        else:
            name = mark if mark in MARKS else "train"
            turns = [{name: values, **turn} if turn["role"] == "assistant" else turn for turn in turns]
    return Opened(_with_system(record, turns), None, used)


def _from_pair(record: Record, request: str, reply: str) -> Opened:
    """Return the turns of a record with a request and a reply.

    The record may also have earlier turns (`history`) and a text to answer from (`context`).
    """
    used = {request, reply, "history", "context", *_SYSTEM, *MARKS, *REASONING}
    used |= {"input"} if request == "instruction" else set()
    for other in (*_REQUEST, *_REPLY):
        if other not in used and record.get(other) not in (None, "", record[request], record[reply]):
            raise unused_key(other)
    asked = record[request]
    if request == "instruction" and record.get("input"):
        asked = f"{asked}\n{record['input']}"
    history = record.get("history") or []
    turns = _with_system(record, turns_of(history) if history else [])
    turns += [{"train": False, **turn} if turn["role"] == "assistant" else turn for turn in _as_turns(asked, "user")]
    if context := record.get("context"):
        is_list = isinstance(context, list) and all(isinstance(text, str) for text in context)
        turns.append({"role": "context", "content": "\n\n".join(context) if is_list else context})
    answered = _as_turns(record[reply], "assistant")
    further = {key: record[key] for key in (*MARKS, *REASONING) if record.get(key) is not None}
    return Opened(
        [*turns, *({**turn, **further} if turn["role"] == "assistant" else turn for turn in answered)], None, used
    )


def _from_preference(record: Record, preference: str) -> Opened:
    """Return the turns of a record with a preferred reply, whose key is `preference`.

    The conversation before the reply is part of the reply's value, or has the key `prompt`.
    """
    used = {preference, "prompt", "chosen", "rejected", "question", "instruction", *_CONVERSATION, *_SYSTEM}
    chosen = record[preference]
    if isinstance(chosen, str) and _ANTHROPIC.match(chosen):
        return Opened(list(_anthropic_turns(chosen)), None, used)
    turns = turns_of([chosen]) if isinstance(chosen, dict) else _as_turns(chosen, "assistant")
    if all(turn["role"] == "assistant" for turn in turns):
        asked = _first(record, ("prompt", "question", "instruction", *_CONVERSATION))
        if asked is None:
            raise UnusableError(f"`{preference}` has no prompt")
        turns = [*_as_turns(record[asked], "user"), *turns]
    return Opened(_with_system(record, turns), None, used)


def _anthropic_turns(text: str) -> Iterator[Turn]:
    parts = _ANTHROPIC.split(text)
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        yield {"role": {"Human": "user", "Assistant": "assistant"}[name], "content": content}


def _as_turns(value: Any, role: str) -> list[Turn]:
    """Return the turns of `value` if it is a list of messages, else one turn of `role` with `value` as its text."""
    return turns_of(value) if isinstance(value, list) else [{"role": role, "content": value}]


def turns_of(value: Any) -> list[Turn]:
    """Return the turns of a list of messages in any of the usual forms. The list may be JSON text.

    Raises TypeError for anything else, and KeyError for a turn without a role.
    """
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except ValueError:
            raise UnusableError("messages as text that is not JSON", repr(value)[:80]) from None
    if not isinstance(value, list):
        raise TypeError("the messages are not a list")
    if all(map(_is_usual, value)):
        return value
    turns: list[Turn] = []
    for item in value:
        turns += _turns_in(item)
    return turns


def _is_usual(turn: Any) -> bool:
    return (
        turn.__class__ is dict
        and turn.get("content") is not None
        and turn.get("role") in ("user", "assistant", "system")
    )


def _turns_in(item: Any) -> list[Turn]:
    """Return the turns of one item of a conversation.

    {role, content} and {from, value} give one turn; {input, output} and [input, output] give two.
    """
    if isinstance(item, list) and len(item) == 2:
        return [{"role": "user", "content": item[0]}, {"role": "assistant", "content": item[1]}]
    if not isinstance(item, dict):
        raise TypeError("a message is not an object")
    role = _first(item, _ROLE) or next((key for key in _ROLE if key in item), None)
    if role is None:
        request, reply = _first(item, _REQUEST), _first(item, _REPLY)
        if request is None or reply is None:
            raise KeyError("role")
        pair = _from_pair(item, request, reply)
        for key in item.keys() - pair.used:
            refuse_unused(key, item[key])
        return pair.turns
    content = _first(item, _CONTENT) or "content"
    role_name = item[role]
    if isinstance(role_name, str) and role_name.strip().lower() not in ("function_call", "tool_call"):
        role_name = role_of(role_name).template_name
    empty = {key for key in (*_ROLE, *_CONTENT) if item.get(key) is None}
    further = {key: value for key, value in item.items() if key not in (role, content, *empty)}
    return [{"role": role_name, "content": item.get(content), **further}]


def _with_system(record: Record, turns: list[Turn]) -> list[Turn]:
    """Return the turns with the record's system message in front, unless they begin with the same message."""
    key = next((key for key in _SYSTEM if record.get(key)), None)
    for other in _SYSTEM:
        if key and record.get(other) and record[other] != record[key]:
            raise unused_key(other)
    if key is None or (turns and turns[0].get("content") == record[key] and turns[0]["role"] == "system"):
        return turns
    return [{"role": "system", "content": record[key]}, *turns]
