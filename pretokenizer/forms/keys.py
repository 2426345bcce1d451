"""The keys of records by meaning: the conversation, the request, the reply, the system message, the tools."""

from collections.abc import Sequence

from pretokenizer.forms.errors import UnusableError
from pretokenizer.forms.turns import UNSUPPORTED
from pretokenizer.records.json_text import Record

CONVERSATION = ("messages", "conversations", "conversation", "dialogue", "dialog")
"""Keys that hold a list of messages."""
REQUEST = ("prompt", "instruction", "question", "query", "input", "inputs", "problem", "human", "user")
REPLY = ("completion", "response", "output", "answer", "target", "targets", "solution", "assistant", "gpt")
SYSTEM = ("system", "system_prompt", "system_message")
ROLE, CONTENT = ("role", "from", "speaker"), ("content", "value", "text")
TOOLS = ("tools", "functions")
_OTHERS = frozenset((*CONVERSATION, *REQUEST, *REPLY, *SYSTEM, *TOOLS, *UNSUPPORTED))
UNCERTAIN_CONVERSATION = ("trajectory", "data")
"""Keys that hold a conversation only in a record that has no other form."""
TEXTS = ("chat", "sample")
"""Keys that may hold a whole conversation as one text."""
GROUND_TRUTH = ("answer", "solution", "target", "targets")
"""Keys beside `messages` that hold the reference answer, with which a checker compares the reply."""


def first(record: Record, keys: Sequence[str]) -> str | None:
    """Return the first of `keys` whose value in the record is not null, or None."""
    return next((key for key in keys if record.get(key) is not None), None)


def common_form(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of a simple conversation: (key of the messages,) or (key of the request, key of the reply).

    `keys` are all keys of a record. Return () for a record of another form, or if another of its keys has a meaning,
    such as `tools`.

    >>> common_form(["id", "messages"]), common_form(["question", "answer"]), common_form(["messages", "tools"])
    (('messages',), ('question', 'answer'), ())
    """
    meant = tuple(key for key in (*CONVERSATION, *REQUEST, *REPLY) if key in keys)
    others = {key for key in keys if key.lower() in _OTHERS} - set(meant)
    is_one = len(meant) == 1 and meant[0] in CONVERSATION
    is_pair = len(meant) == 2 and meant[0] in REQUEST and meant[1] in REPLY
    return meant if (is_one or is_pair) and not others else ()


def is_plain_text(record: Record) -> bool:
    """Return whether a record holds plain text under the key `text`, and no conversation in another form."""
    keys = {key.lower() for key in record}
    is_pair = not keys.isdisjoint(REQUEST) and not keys.isdisjoint(REPLY)
    is_other = is_pair or not keys.isdisjoint((*CONVERSATION, "chosen", "parent_id"))
    return isinstance(record.get("text"), str) and not is_other


def unknown_form(record: Record) -> UnusableError:
    """Return the error for a record of no known form. It names the likely cause, or lists the record's keys."""
    if {"role", "parent_id"} <= record.keys():
        return UnusableError("one message of a tree", "the data set oasst_export reads message trees")
    empty = [key for key in CONVERSATION if key in record]
    if empty:
        return UnusableError(f"`{empty[0]}` is null")
    names = ", ".join(map(str, record))
    return UnusableError("no known form", f"docs/data.md lists the forms; its keys: {names}")
