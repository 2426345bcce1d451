"""Recognise forms of records that are read with an option only, or not at all, and say what to do with them.

| form | keys | what happens |
|---|---|---|
| LMSYS's arena | `conversation_a`, `conversation_b`, `winner` | `preference: chosen` reads the winner, not ties |
| MOSS | `chat: {turn_1: ...}` | refused: the turns hold MOSS's own marks |
| axolotl's input_output | `segments: [{label, text}]` | refused: the texts hold control tokens of a chat format |
"""

from pretokenizer.forms.errors import UnusableError
from pretokenizer.records.json_text import Record

ARENA = ("conversation_a", "conversation_b", "winner")
_WINNERS = {"model_a": "conversation_a", "model_b": "conversation_b"}


def is_arena(record: Record) -> bool:
    """Return whether a record compares two conversations, as LMSYS's Chatbot Arena does."""
    return bool(record.get("conversation_a") and record.get("conversation_b")) and "winner" in record


def winner_of(record: Record) -> str | None:
    """Return the key of the better conversation of a record for which `is_arena` is true; None if there is none."""
    return _WINNERS.get(str(record["winner"]))


def not_preferred(record: Record) -> str | None:
    """Return why a record has no preferred reply to learn: it is rated as bad, or no reply won. None if it has one."""
    if record.get("label") is False:
        return "a rejected reply"
    return "two replies without a winner" if is_arena(record) and winner_of(record) is None else None


def refuse_foreign(record: Record) -> None:
    """Raise UnusableError for a record in MOSS's form or axolotl's input_output form. The error says what to do."""
    chat = record.get("chat")
    if isinstance(chat, dict) and any(key.startswith("turn_") for key in chat):
        raise UnusableError(
            "turns in MOSS's form",
            "write them as `messages`: `Human` as user and `MOSS` as assistant, without marks such as <eoh>",
        )
    segments = record.get("segments")
    if (
        isinstance(segments, list)
        and segments
        and all(isinstance(s, dict) and {"label", "text"} <= s.keys() for s in segments)
    ):
        raise UnusableError(
            "segments in axolotl's input_output form",
            "write them as `messages` without control tokens, with `train: false` where `label` is false;"
            " `chat_format` adds the control tokens",
        )
