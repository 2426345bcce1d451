"""Convert the turns of a record to messages: role names, text, tool calls, loss marks, order.

A turn is a dictionary with `role` and `content`, as in OpenAI's format. A loss mark is a key that says whether the
message gets loss. Each key of a turn is used, raises UnusableError, or is added to the unused keys that the report
lists.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pretokenizer.chat.conversation import Message
from pretokenizer.chat.roles import Role
from pretokenizer.forms.errors import UnusableError, unused_key
from pretokenizer.forms.tools import calls_of

Turn = dict[str, Any]
ConsecutiveRoles = Literal["allow", "merge", "refuse"]
ROLES = {
    **dict.fromkeys(("system", "developer"), Role.SYSTEM),
    **dict.fromkeys(("user", "human", "prompter"), Role.USER),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bot", "ai", "bing", "bard"), Role.ASSISTANT),
    **dict.fromkeys(("function_call", "tool_call"), Role.ASSISTANT),
    "context": Role.CONTEXT,
    **dict.fromkeys(("tool", "function", "observation", "ipython"), Role.TOOL),
    **dict.fromkeys(("tool_response", "tool_result", "function_response", "function_result"), Role.TOOL),
}
"""Name of a role in records, in lower case -> role."""
_REGULAR = {name: ROLES[name] for name in ("system", "user", "human", "assistant", "gpt")}
_MAY_FOLLOW: dict[Role | None, tuple[Role, ...]] = {
    None: (Role.SYSTEM, Role.USER),
    Role.SYSTEM: (Role.USER,),
    Role.USER: (Role.ASSISTANT,),
    Role.ASSISTANT: (Role.USER,),
}
MARKS = ("train", "weight", "loss", "loss_mask")
"""Keys of a turn that say whether its message gets loss. Their values are true or 1, false or 0, or null."""
REASONING = ("reasoning_content", "thinking", "reasoning")
_PASSED = ("tool_calls", *REASONING, "name", "tool_call_id")
"""Keys of a turn that are passed to the chat template."""
_MEDIA = ("images", "image", "image_url", "audio", "video", "videos", "documents")
_MEDIA_PARTS = frozenset((*_MEDIA, "input_image", "input_audio", "video_url", "file", "input_file"))
"""Types of the content parts that are not text."""
_LEARNED = (
    "system",
    "history",
    "context",
    "input",
    "chosen",
    "rejected",
    "rejected_response",
    "rejected_messages",
    "refusal",
    "mask",
    "masks",
    "label",
    "kto_tag",
    "prefix",
    "suffix",
    "choices",
    "chat_template_kwargs",
)
_THOUGHTS = (
    *("thought", "thoughts", "think", "rationale", "cot", "complex_cot", "chain_of_thought", "scratchpad"),
    *("thinking_content", "think_content", "reasoning_trace", "thinking_trajectory", "thinking_trajectories"),
    *("deepseek_reasoning", "deepseek_thinking_trajectory"),
)
_MODES = frozenset(("on", "off", "yes", "no", "none", "auto", "minimal", "low", "medium", "high", "true", "false"))
"""Values of `reasoning` that name a mode of the model and are no thoughts."""
_OTHER_MARKS = ("trainable", "training", "masked", "train_detail", "train_on_input")
_SYSTEMS = ("system_message", "system_prompt", "systemprompt")
_FURTHER = (*_THOUGHTS, *_OTHER_MARKS, *_SYSTEMS, "contexts", "passage", "passages")
_CALLS = ("tool_calls", "function_call", "tools", "functions", "tool_responses")
UNSUPPORTED = frozenset((*MARKS, *REASONING, *_CALLS, *_LEARNED, *_FURTHER, *_MEDIA))
"""Keys, in lower case, that change what should be learned. If the reader does not use one, the record is bad."""
_MERGED_BY = "\n\n"


def role_of(name: Any) -> Role:
    """Return the role with this name, ignoring case. Raises UnusableError for an unknown name."""
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise UnusableError("unknown role", repr(name)[:80])
    return role


def regular_messages(turns: Any) -> tuple[Message, ...] | None:
    """Return the messages of a regular conversation, or None if `turns` is anything else.

    The turns of a regular conversation have a role and a text and nothing else. User and assistant alternate, and the
    assistant speaks last. One system message may come first.
    """
    messages: list[Message] = []
    last: Role | None = None
    try:
        role_key, text_key = ("from", "value") if "from" in turns[0] else ("role", "content")
        for turn in turns:
            role, text = _REGULAR[turn[role_key]], turn[text_key]
            if len(turn) > 2 or text.__class__ is not str or not text or role not in _MAY_FOLLOW[last]:
                return None
            messages.append(Message(role, text))
            last = role
    except (LookupError, TypeError):
        return None
    return tuple(messages) if last is Role.ASSISTANT else None


def message_of(role: Role, turn: Turn, ignored: Iterable[str], unused: set[str]) -> Message:
    """Return the message of a turn whose speaker has `role`.

    Keys of the turn that have no meaning, except those in `ignored`, are added to `unused`. Raises UnusableError for
    content that is not text and for a key in UNSUPPORTED, and ValueError for a loss mark that is neither true nor
    false.
    """
    content = turn.get("content")
    fields = {key: turn[key] for key in _PASSED if turn.get(key) not in (None, "", []) and not is_mode(key, turn[key])}
    for key in REASONING:
        if not isinstance(fields.get(key, ""), str):
            raise UnusableError(f"`{key}` is not text", repr(fields[key])[:80])
    if isinstance(turn["role"], str) and turn["role"].strip().lower() in ("function_call", "tool_call"):
        fields["tool_calls"], content = calls_of(content), ""
    elif turn.get("function_call"):
        if "tool_calls" in fields:
            raise UnusableError("a message with `function_call` and `tool_calls`")
        fields["tool_calls"] = calls_of(turn["function_call"])
    elif "tool_calls" in fields:
        fields["tool_calls"] = calls_of(fields["tool_calls"])
    used = {"role", "content", "function_call", *_PASSED, *MARKS, *ignored}
    for key in [key for key in turn if key not in used]:
        if not _repeats(key, turn[key], content):
            refuse_unused(key, turn[key])
        unused.add(f"messages[].{key}")
    text = _text_of(content, role, bool(fields))
    return Message(role, text, mark_of(turn), fields or None)


def _repeats(key: str, value: Any, content: Any) -> bool:
    """Return whether a turn's thoughts under `key` are part of its content too, as in the traces of SWE-agent."""
    return key in _THOUGHTS and isinstance(value, str) and isinstance(content, str) and value.strip() in content


def refuse_unused(key: str, value: Any) -> None:
    """Raise UnusableError if `key`, which the reader does not use, changes what should be learned and has a value."""
    if key == "label" and not isinstance(value, bool):  # true and false tell a good reply from a bad one
        return
    if is_mode(key, value) or (key == "prefix" and value is False):
        return
    if key.lower() in UNSUPPORTED and value not in (None, "", [], {}):
        raise unused_key(key)


def is_mode(key: str, value: Any) -> bool:
    """Return whether the key `reasoning` has a value such as "on", which names a mode of the model.

    >>> is_mode("reasoning", "on"), is_mode("reasoning", "Two and two is four."), is_mode("thinking", "on")
    (True, False, False)
    """
    return key == "reasoning" and (isinstance(value, bool) or (isinstance(value, str) and value.lower() in _MODES))


def _text_of(content: Any, role: Role, has_fields: bool) -> str:
    """Return a message's text, whose content is a string, a list of text parts, or the JSON value of a tool.

    `has_fields` says whether the message has fields such as tool calls. Raises UnusableError for any other content, and
    for an empty message that neither is a tool's nor has fields.
    """
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "".join(part if isinstance(part, str) else part["text"] for part in content)
    elif role is Role.TOOL and content is not None and not isinstance(content, str) and not _has_media(content):
        content = json.dumps(content, ensure_ascii=False)
    if content is None and (role is Role.TOOL or (has_fields and role is Role.ASSISTANT)):
        return ""
    if not isinstance(content, str):
        parts = content if isinstance(content, list) else []
        kinds = sorted({_kind_of(part) for part in parts if isinstance(part, dict)})
        raise UnusableError("message without text", f"content of type {', '.join(kinds) or type(content).__name__}")
    if not content and role is not Role.TOOL and not has_fields:
        raise UnusableError("empty message")
    return content


def _is_text_part(part: Any) -> bool:
    if isinstance(part, str):
        return True
    is_text = isinstance(part, dict) and part.get("type", "text") in ("text", "input_text", "output_text")
    return is_text and isinstance(part.get("text"), str) and not any(part.get(key) for key in _MEDIA)


def _kind_of(part: dict[str, Any]) -> str:
    """Return the type of a content part, or its keys if it names no type."""
    return str(part.get("type") or "/".join(map(str, part)))


def _has_media(content: Any) -> bool:
    """Return whether content has a part, such as an image, that is not text."""
    return isinstance(content, list) and any(isinstance(p, dict) and p.get("type") in _MEDIA_PARTS for p in content)


def mark_of(turn: Turn) -> bool | None:
    """Return whether the keys in MARKS give a turn loss: True, False, or None if all are absent or null.

    Raises ValueError for other values, and if two keys disagree.
    """
    marks = {key: turn[key] for key in MARKS if turn.get(key) is not None}
    for key, value in marks.items():
        if value not in (0, 1):
            raise ValueError(f"`{key}` is not 0, 1, true or false")
    if len({bool(value) for value in marks.values()}) > 1:
        raise ValueError(f"{' and '.join(f'`{key}`' for key in marks)} disagree")
    return bool(next(iter(marks.values()))) if marks else None


def in_order(messages: Sequence[Message], rule: ConsecutiveRoles, notes: set[str]) -> tuple[Message, ...]:
    """Return the messages with the rule for consecutive messages of one role applied: allow, merge or refuse them.

    `merge` joins two texts with a blank line, unless the messages differ in `train` or one has fields. Tool results and
    contexts may always follow each other. Each irregularity of the conversation is added to `notes`. Raises
    UnusableError under the rule `refuse`.
    """
    kept: list[Message] = []
    for message in messages:
        role = message.role
        if kept and role is kept[-1].role and role not in (Role.TOOL, Role.CONTEXT):
            if rule == "refuse":
                raise UnusableError("roles do not alternate", f"two messages of the {role.template_name} in a row")
            notes.add("two messages of one role in a row")
            last = kept[-1]
            if rule == "merge" and last.train == message.train and not last.fields and not message.fields:
                kept[-1] = last._replace(text=last.text + _MERGED_BY + message.text)
                continue
        elif role is Role.SYSTEM and kept:
            notes.add("a system message after the start")
        kept.append(message)
    first = next((message for message in kept if message.role is not Role.SYSTEM), None)
    if first and first.role is Role.ASSISTANT:
        notes.add("starts with the assistant")
    if kept and kept[-1].role is not Role.ASSISTANT:
        notes.add("ends without a reply")
    return tuple(kept)
