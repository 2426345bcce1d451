"""Convert tool calls and tool schemas of any usual form to OpenAI's form, which chat templates read."""

import json
from typing import Any

from pretokenizer.forms.errors import UnusableError

_ARGUMENTS = ("arguments", "parameters", "input", "args")
"""Keys of a tool call that hold its arguments."""
_SCHEMAS = ("input_schema", "inputSchema")
"""Other names for `parameters` in a tool's schema: Anthropic's, and the Model Context Protocol's."""


def calls_of(value: Any) -> list[dict[str, Any]]:
    """Return tool calls in OpenAI's form. `value` is a call or a list of calls, as objects or as JSON text.

    In the result, arguments are an object, as chat templates expect, unless they are broken JSON. Raises UnusableError
    for text that is not JSON and for calls without a name.
    """
    calls = []
    for item in _listed(value, "tool call"):
        function = item.get("function", item)
        if not isinstance(function, dict) or not function.get("name"):
            raise UnusableError("a tool call without a name", repr(item)[:80])
        given = [function[key] for key in _ARGUMENTS if function.get(key) is not None]
        arguments = given[0] if given else {}
        if isinstance(arguments, str):
            try:
                parsed = json.loads(arguments or "{}")
                arguments = parsed if isinstance(parsed, dict) else arguments
            except ValueError:
                pass  # the model wrote broken JSON, and this is what the template gets
        known = {"id": item["id"]} if item.get("id") else {}
        calls.append({**known, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return calls


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """Return tool schemas in OpenAI's form, or None if there are none.

    `value` is a schema or a list of schemas, as objects or as JSON text. Raises UnusableError for text that is not JSON
    and for tools without a name.
    """
    return [_tool(item) for item in _listed(value, "tool")] or None


def name_of(tool: dict[str, Any]) -> str:
    """Return the name of a tool that `tools_of` returned."""
    return str(tool["function"]["name"])


def _tool(item: dict[str, Any]) -> dict[str, Any]:
    if isinstance(item.get("function"), dict):
        function, tool = item["function"], item
    else:
        function = {key: value for key, value in item.items() if key != "type" or value != "function"}
        schema = next((key for key in _SCHEMAS if key in function and "parameters" not in function), None)
        if schema is not None:
            function = {"parameters" if key == schema else key: value for key, value in function.items()}
        tool = {"type": "function", "function": function}
    if not function.get("name"):
        raise UnusableError("a tool without a name", repr(item)[:80])
    return tool


def _listed(value: Any, what: str) -> list[dict[str, Any]]:
    """Return a list of objects from such a list, from one object, or from JSON text of either.

    `what` names the objects in messages. Raises UnusableError for anything else.
    """
    value = _parsed(value, what)
    items = [value] if isinstance(value, dict) else value or []
    if not isinstance(items, list):
        raise UnusableError(f"a {what} that is not an object", repr(items)[:80])
    items = [_parsed(item, what) for item in items]
    for item in items:
        if not isinstance(item, dict):
            raise UnusableError(f"a {what} that is not an object", repr(item)[:80])
    return items


def _parsed(value: Any, what: str) -> Any:
    """Return the value of JSON text, or a value that is not text as it is. Blank text gives None."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        raise UnusableError(f"a {what} that is not JSON", repr(value)[:80]) from None
