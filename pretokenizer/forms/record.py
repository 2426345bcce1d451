"""Recognise the form of a record and convert it to turns, which are {role, content}, and tools.

| form | keys |
|---|---|
| conversation | `messages`, `conversations` ...: {role, content}, {from, value}, {input, output}; also as JSON text |
| request and reply | `instruction`, `prompt`, `question` ... with `output`, `completion`, `response`, `answer` ... |
| preference | `chosen` and perhaps `prompt`, with the option `preference: chosen` |
| OpenAI's answer | `choices` beside `messages` or `prompt`; `preferred_output` beside `input` |
| tool calls | `query`, `answers` (tool calls) and `tools`, as in xlam-function-calling-60k |
| Gemini's API | `contents` of parts, or `request` and `response` |
| arena | `conversation_a`, `conversation_b`, `winner`, with the option `preference: chosen` |
| one text | `chat` or `sample`, as in glaive-function-calling |

A record may also have `system`, `tools`, `history`, `context`, and keys such as `weight` that say whether the reply
gets loss.
"""

import json
from typing import Any, NamedTuple

from pretokenizer.forms.dialogue_text import anthropic_turns, glaive_turns, is_anthropic, is_glaive
from pretokenizer.forms.errors import UnusableError, unused_key
from pretokenizer.forms.foreign import ARENA, is_arena, refuse_foreign, winner_of
from pretokenizer.forms.gemini import gemini_turns, is_gemini
from pretokenizer.forms.keys import (
    CONTENT,
    CONVERSATION,
    GROUND_TRUTH,
    REPLY,
    REQUEST,
    ROLE,
    SYSTEM,
    TEXTS,
    TOOLS,
    UNCERTAIN_CONVERSATION,
    first,
    is_plain_text,
    unknown_form,
)
from pretokenizer.forms.parts import has_anthropic_parts, turns_of_parts
from pretokenizer.forms.tools import calls_of, tools_of
from pretokenizer.forms.turns import (
    MARKS,
    REASONING,
    Turn,
    refuse_unused,
    role_of,
)
from pretokenizer.records.json_text import Record


class Opened(NamedTuple):
    """A record in a common form: its turns, each {role, content}, and the tools that the assistant may call."""

    turns: list[Turn]
    tools: list[dict[str, Any]] | None
    used: set[str]
    """Keys of the record from which the turns and tools are read."""


def open_record(record: Record, preference: str | None) -> Opened:
    """Return the turns and tools of a record of any known form. Keys may be in upper case (`INSTRUCTION`).

    `preference` is the key of the preferred reply, `chosen`, if the user wants preference pairs, else None. Raises
    UnusableError for a record of an unknown form, and for preference pairs or plain text without the option that they
    need.
    """
    if is_gemini(record):
        return Opened(*gemini_turns(record))
    preferred = _preferred(record, preference)
    if preferred:
        opened = _from_preference(record, preferred)
    elif first(record, ("choices",)):
        opened = _from_choices(record)
    elif key := first(record, CONVERSATION):
        opened = _from_conversation(record, key)
    elif (request := first(record, REQUEST)) and (reply := first(record, REPLY)):
        opened = _from_pair(record, request, reply)
    elif (request := first(record, ("query",))) and first(record, ("answers",)) and first(record, TOOLS):
        calls = {"role": "assistant", "content": None, "tool_calls": calls_of(record["answers"])}
        opened = Opened([*_as_turns(record[request], "user"), calls], None, {request, "answers"})
    elif (key := first(record, TEXTS)) and is_glaive(record[key]):
        start = glaive_turns(record["system"]) if is_glaive(record.get("system")) else []
        opened = Opened([*start, *glaive_turns(record[key])], None, {key, *(["system"] if start else [])})
    elif (key := first(record, UNCERTAIN_CONVERSATION)) and isinstance(record[key], (list, str)):
        opened = _from_conversation(record, key)
    elif is_plain_text(record):
        raise UnusableError("plain text needs the option `loss: all`")
    elif any(key != key.lower() for key in record) and "Text" not in record:
        lower = open_record({key.lower(): value for key, value in record.items()}, preference)
        return lower._replace(used={key for key in record if key.lower() in lower.used})
    else:
        refuse_foreign(record)
        raise unknown_form(record)
    tools_key = first(record, TOOLS)
    opened.used.update(TOOLS)
    if preference:
        opened.used.add("label")
    return opened._replace(tools=tools_of(record[tools_key])) if tools_key else opened


def _preferred(record: Record, preference: str | None) -> str | None:
    """Return the key of the preferred reply to use; None for a record without preferences.

    Raises UnusableError for preferences without the option that says what to do with them.
    """
    is_pair = first(record, ("chosen",)) and first(record, ("rejected",))
    if preference is None and (
        is_pair or is_arena(record) or first(record, ("preferred_output",)) or isinstance(record.get("label"), bool)
    ):
        raise UnusableError("a preference pair or rating needs the option `preference: chosen`")
    if preference and is_arena(record):
        return winner_of(record)
    return first(record, (preference, "preferred_output")) if preference else None


def _from_conversation(record: Record, key: str) -> Opened:
    """Return the turns of the list of messages under `key`, with the record's system message and loss marks."""
    turns = turns_of(record[key])
    used = {key, *SYSTEM}
    for other in CONVERSATION:
        if other != key and record.get(other) and turns_of(record[other]) != turns:
            raise unused_key(other)
    for other in (*REQUEST, *REPLY):  # some data sets repeat the first message beside the messages
        is_repeated = any(turn.get("content") == record.get(other) for turn in turns)
        if record.get(other) and not is_repeated and other not in GROUND_TRUTH:
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
    used = {request, reply, "history", "context", *SYSTEM, *MARKS, *REASONING}
    used |= {"input"} if request == "instruction" else set()
    for other in (*REQUEST, *REPLY):
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
    used = {preference, "prompt", "chosen", "rejected", "question", "instruction", *CONVERSATION, *SYSTEM, *ARENA}
    if preference == "preferred_output":
        used |= {"input", "non_preferred_output"}
    chosen = record[preference]
    if is_anthropic(chosen):
        return Opened(anthropic_turns(chosen), None, used)
    turns = _as_turns(chosen, "assistant")
    tools = None
    if all(turn["role"] == "assistant" for turn in turns):
        asked = first(record, ("prompt", "question", "instruction", "input", *CONVERSATION))
        if asked is None:
            raise UnusableError(f"`{preference}` has no prompt")
        turns = [*_as_turns(record[asked], "user"), *turns]
        tools = record[asked].get("tools") if isinstance(record[asked], dict) else None
    return Opened(_with_system(record, turns), tools_of(tools), used)


def _from_choices(record: Record) -> Opened:
    """Return the turns of a request and the answer of OpenAI's API, whose only choice is the reply.

    The request is beside the choices, or under the key `request`.
    """
    request = record["request"] if isinstance(record.get("request"), dict) else record
    asked = first(request, ("messages", "prompt"))
    choices = record["choices"]
    if asked is None or not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise UnusableError("`choices` without `messages` or `prompt` of the request")
    if len(choices) != 1:
        raise UnusableError("several `choices`", f"{len(choices)} of them; keep one")
    reply = choices[0].get("message") or choices[0].get("text")
    turns = [*_as_turns(request[asked], "user"), *_as_turns(reply, "assistant")]
    tools = first(request, TOOLS)
    return Opened(turns, tools_of(request[tools]) if tools else None, {asked, "choices", "request"})


def _as_turns(value: Any, role: str) -> list[Turn]:
    """Return the turns of a list of messages, of one message, or of an object with a list of `messages`.

    Any other value is the text of one turn of `role`.
    """
    if isinstance(value, dict):
        value = value.get("messages", [value])
    return turns_of(value) if isinstance(value, list) else [{"role": role, "content": value}]


def turns_of(value: Any) -> list[Turn]:
    """Return the turns of a list of messages in any of the usual forms. The list may be JSON text.

    Raises TypeError for anything else, KeyError for a turn without a role, and UnusableError for text that is not JSON
    and for an item that is not a message.
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
    if all(isinstance(item, str) for item in value):  # user and assistant take turns, as in LIMA and UltraChat
        return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(value)]
    turns: list[Turn] = []
    for item in value:
        turns += _turns_in(item)
    return turns


def _is_usual(turn: Any) -> bool:
    """Return whether a turn is {role, content} already, so that nothing has to be converted."""
    return (
        turn.__class__ is dict
        and turn.get("content") is not None
        and not has_anthropic_parts(turn["content"])
        and turn.get("role") in ("user", "assistant", "system")
    )


def _turns_in(item: Any) -> list[Turn]:
    """Return the turns of one item of a conversation.

    {role, content} and {from, value} give one turn; {input, output} and [input, output] give two.
    """
    if isinstance(item, list) and len(item) == 2:
        return [{"role": "user", "content": item[0]}, {"role": "assistant", "content": item[1]}]
    if not isinstance(item, dict):
        raise UnusableError("a message is not an object", repr(item)[:80])
    role = first(item, ROLE) or next((key for key in ROLE if key in item), None)
    if role is None:
        request, reply = first(item, REQUEST), first(item, REPLY)
        if request is None or reply is None:
            raise KeyError("role")
        pair = _from_pair(item, request, reply)
        for key in item:
            if key not in pair.used:
                refuse_unused(key, item[key])
        return pair.turns
    content = first(item, CONTENT) or "content"
    role_name = item[role]
    if isinstance(role_name, str) and role_name.strip().lower() not in ("function_call", "tool_call"):
        role_name = role_of(role_name).template_name
    empty = {key for key in (*ROLE, *CONTENT) if item.get(key) is None}
    further = {key: value for key, value in item.items() if key not in (role, content, *empty)}
    turn = {"role": role_name, "content": item.get(content), **further}
    return turns_of_parts(turn) if has_anthropic_parts(turn["content"]) else [turn]


def _with_system(record: Record, turns: list[Turn]) -> list[Turn]:
    """Return the turns with the record's system message in front, unless they begin with the same message."""
    key = next((key for key in SYSTEM if record.get(key)), None)
    for other in SYSTEM:
        if key and record.get(other) and record[other] != record[key]:
            raise unused_key(other)
    if key is None or (turns and turns[0].get("content") == record[key] and turns[0]["role"] == "system"):
        return turns
    return [{"role": "system", "content": record[key]}, *turns]
