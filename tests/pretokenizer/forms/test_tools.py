"""Tool calls and tool schemas in OpenAI's form."""

from typing import Any

import pytest

from pretokenizer.forms.errors import UnusableError
from pretokenizer.forms.tools import calls_of, tools_of

CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "Oslo"}}}


@pytest.mark.parametrize(
    "value",
    [
        CALL,
        [CALL],
        '{"name": "f", "arguments": {"city": "Oslo"}}',
        '[{"type": "function", "function": {"name": "f", "arguments": "{\\"city\\": \\"Oslo\\"}"}}]',
        [{"name": "f", "parameters": {"city": "Oslo"}}],
        [{"type": "tool_use", "name": "f", "input": {"city": "Oslo"}}],
        [{"name": "f", "arguments": None, "args": {"city": "Oslo"}}],
    ],
)
def test_tool_calls(value: Any) -> None:
    assert calls_of(value) == [CALL]


def test_a_call_keeps_its_id_and_broken_arguments() -> None:
    call = {"id": "c1", "index": 0, "function": {"name": "f", "arguments": '{"city": '}}
    function = {"name": "f", "arguments": '{"city": '}
    assert calls_of([call]) == [{"id": "c1", "type": "function", "function": function}]
    nothing = {"type": "function", "function": {"name": "f", "arguments": {}}}
    assert calls_of({"function": {"name": "f", "arguments": None}}) == [nothing]
    with pytest.raises(UnusableError, match="a tool call that is not JSON"):
        calls_of("f(city)")
    with pytest.raises(UnusableError, match="a tool call without a name"):
        calls_of({"arguments": {}})


def test_tools() -> None:
    schema = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    wrapped = [{"type": "function", "function": schema}]
    assert tools_of(wrapped) == tools_of([schema]) == tools_of([{"type": "function", **schema}]) == wrapped
    anthropic = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    assert tools_of(anthropic) == wrapped
    assert tools_of([]) is tools_of(None) is tools_of(" ") is None
