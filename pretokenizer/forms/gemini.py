"""Convert records of the Gemini API to turns in OpenAI's form: requests, tuning examples and batch results.

{"systemInstruction": {"parts": [...]}, "contents": [{"role": "user", "parts": [...]}, {"role": "model", ...}]}
{"request": {"contents": [...]}, "response": {"candidates": [{"content": {"role": "model", "parts": [...]}}]}}

A part is a text, a thought, a function call or a function's response. Keys may be in camel case or in snake case.
"""

from typing import Any

from pretokenizer.forms.errors import UnusableError
from pretokenizer.forms.tools import tools_of
from pretokenizer.records.json_text import Record

_SYSTEM = ("systemInstruction", "system_instruction")
_CALL = ("functionCall", "function_call")
_RESPONSE = ("functionResponse", "function_response")
_DECLARATIONS = ("functionDeclarations", "function_declarations")
_SCHEMA = ("parametersJsonSchema", "parameters_json_schema")
_NOTES = ("thought", "thoughtSignature", "thought_signature")
"""Keys of a part that say something about it and are not its content."""


def is_gemini(record: Record) -> bool:
    """Return whether a record is a request or a batch result of the Gemini API."""
    request = record.get("request")
    return any(isinstance(own, dict) and isinstance(own.get("contents"), list) for own in (record, request))


def gemini_turns(record: Record) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None, set[str]]:
    """Return the turns, the tools and the used keys of a record for which `is_gemini` is true.

    Raises UnusableError for parts that are not text, such as images, and for several candidates.
    """
    request = record if isinstance(record.get("contents"), list) else record["request"]
    system = _first(request, _SYSTEM)
    turns: list[dict[str, Any]] = []
    if system is not None:
        turns += _turns_of(
            {**system, "role": "system"} if isinstance(system, dict) else {"role": "system", **_text(system)}
        )
    for content in request["contents"]:
        turns += _turns_of(content)
    answer = record["response"] if isinstance(record.get("response"), dict) else record
    candidates = answer.get("candidates") or []
    if len(candidates) > 1:
        raise UnusableError("several `candidates`", f"{len(candidates)} of them; keep one")
    for candidate in candidates:
        turns += _turns_of({"role": "model", **candidate["content"]})
    return turns, _tools(request.get("tools")), {"contents", "request", "response", "candidates", "tools", *_SYSTEM}


def _turns_of(content: Any) -> list[dict[str, Any]]:
    """Return the turns of one content: a tool turn for each function response, and one turn for the other parts."""
    if not isinstance(content, dict) or not isinstance(content.get("parts"), list):
        raise UnusableError("a content without `parts`", repr(content)[:80])
    turns: list[dict[str, Any]] = []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in content["parts"]:
        own = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
        call, response = _first(own, _CALL), _first(own, _RESPONSE)
        if call is not None:
            calls.append(call)
        elif response is not None:
            if texts:
                raise UnusableError("a function response after a text in one content")
            turns.append({"role": "tool", "name": response.get("name"), "content": response.get("response")})
        elif isinstance(own.get("text"), str) and not own.keys() - {"text", *_NOTES}:
            (thoughts if own.get("thought") else texts).append(own["text"])
        else:
            kinds = ", ".join(sorted(own.keys() - {*_NOTES})) or type(part).__name__
            raise UnusableError("message without text", f"a part of type {kinds}")
    if texts or thoughts or calls or not turns:
        turn: dict[str, Any] = {"role": content.get("role") or "user", "content": "".join(texts)}
        turns.append(
            turn | ({"tool_calls": calls} if calls else {}) | ({"thinking": "".join(thoughts)} if thoughts else {})
        )
    return turns


def _tools(tools: Any) -> list[dict[str, Any]] | None:
    """Return Gemini's function declarations as tools in OpenAI's form.

    Raises UnusableError for a tool without function declarations, such as code execution.
    """
    declared: list[dict[str, Any]] = []
    for tool in tools or []:
        functions = _first(tool, _DECLARATIONS)
        if functions is None:
            raise UnusableError("a tool without `functionDeclarations`", ", ".join(tool))
        for function in functions:
            schema = _first(function, _SCHEMA)
            own = {key: value for key, value in function.items() if key not in _SCHEMA and value is not None}
            declared.append({"type": "function", "function": own | ({"parameters": schema} if schema else {})})
    return tools_of(declared)


def _text(text: Any) -> dict[str, Any]:
    return {"parts": [{"text": text}]}


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)
