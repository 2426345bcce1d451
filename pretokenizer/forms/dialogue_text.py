"""Split conversations that data sets write as one text: Anthropic's preference data, and Glaive's function calls.

"\\n\\nHuman: Hi\\n\\nAssistant: Hello"                                  Anthropic
"USER: Hi\\n\\n\\nASSISTANT: Hello <|endoftext|>\\n\\n\\n"                Glaive
"""

import re
from typing import Any

_ANTHROPIC = re.compile(r"\n\n(Human|Assistant): ?")
_GLAIVE = re.compile(r"(?:\A|\n)\s*(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE): ?")
_ROLES = {
    "Human": "user",
    "Assistant": "assistant",
    "SYSTEM": "system",
    "USER": "user",
    "ASSISTANT": "assistant",
    "FUNCTION RESPONSE": "tool",
}
_END = "<|endoftext|>"


def is_anthropic(text: Any) -> bool:
    """Return whether a value is a text that begins with a turn in Anthropic's form, such as `\\n\\nHuman: Hi`."""
    return isinstance(text, str) and _ANTHROPIC.match(text) is not None


def is_glaive(text: Any) -> bool:
    """Return whether a value is a text that begins with a turn in Glaive's form, such as `USER: Hi`."""
    return isinstance(text, str) and _GLAIVE.match(text) is not None


def anthropic_turns(text: str) -> list[dict[str, Any]]:
    """Return the turns of a conversation in Anthropic's form, with their texts unchanged."""
    return _turns(_ANTHROPIC, text)


def glaive_turns(text: str) -> list[dict[str, Any]]:
    """Return the turns of a conversation in Glaive's form, without the end-of-text marks and the space around them."""
    return [{**turn, "content": turn["content"].strip().removesuffix(_END).rstrip()} for turn in _turns(_GLAIVE, text)]


def _turns(separator: re.Pattern[str], text: str) -> list[dict[str, Any]]:
    parts = separator.split(text)
    return [{"role": _ROLES[name], "content": content} for name, content in zip(parts[1::2], parts[2::2], strict=True)]
