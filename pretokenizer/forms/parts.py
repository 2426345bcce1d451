"""Convert turns whose content is a list of parts in Anthropic's form to turns in OpenAI's form.

assistant: [thinking, text, tool_use]      ->  assistant: text, with `thinking` and `tool_calls`
user: [tool_result, text]                  ->  tool: result;  user: text
"""

from typing import Any

from pretokenizer.forms.errors import UnusableError

_ANTHROPIC = frozenset(("tool_use", "tool_result", "thinking", "redacted_thinking"))


def has_anthropic_parts(content: Any) -> bool:
    """Return whether a turn's content is a list with a tool call, a tool result or a thought among its parts."""
    return isinstance(content, list) and any(isinstance(p, dict) and p.get("type") in _ANTHROPIC for p in content)


def turns_of_parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the turns in OpenAI's form of one turn for which `has_anthropic_parts` is true.

    Raises UnusableError for a redacted thought, whose text is encrypted, and for a tool result after a text, which
    would change places with it.
    """
    results: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    rest: list[Any] = []
    for part in turn["content"]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "redacted_thinking":
            raise UnusableError("a thought that is redacted")
        if kind == "tool_use":
            calls.append({key: part.get(key) for key in ("id", "name", "input")})
        elif kind == "thinking":
            thoughts.append(part.get("thinking") or "")
        elif kind != "tool_result":
            rest.append(part)
        elif rest:
            raise UnusableError("a tool result after a text in one message")
        else:
            call = {"tool_call_id": part["tool_use_id"]} if part.get("tool_use_id") else {}
            results.append({"role": "tool", "content": part.get("content"), **call})
    own: dict[str, Any] = {**turn, "content": rest or None}
    if calls:
        own["tool_calls"] = calls
    if thoughts:
        own["thinking"] = "\n\n".join(thoughts)
    return [*results, own] if rest or calls or thoughts else results
