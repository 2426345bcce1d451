"""Turns are read with their roles, content, tool calls and loss marks, and in an allowed order of roles."""

from typing import Any

import pytest

from pretokenizer.chat.conversation import Message
from pretokenizer.chat.roles import Role
from pretokenizer.forms.errors import UnusableError
from pretokenizer.forms.turns import in_order, is_mode, mark_of, message_of, role_of

CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "Oslo"}}}


def message(**turn: Any) -> Message:
    return message_of(role_of(turn["role"]), turn, (), set())


def test_roles() -> None:
    assert [role_of(name) for name in ("Developer", " USER ", "GPT", "observation", "context")] == [0, 1, 2, 5, 3]
    for name in ("moderator", "", None, 7, ["user"]):
        with pytest.raises(UnusableError, match="unknown role"):
            role_of(name)


def test_messages_with_tools() -> None:
    asked = message(role="assistant", content=None, tool_calls=[CALL])
    assert asked == Message(Role.ASSISTANT, "", None, {"tool_calls": [CALL]})
    assert message(role="assistant", content="Let me look.", tool_calls=[CALL]).text == "Let me look."
    assert message(role="function_call", content='{"name": "f", "arguments": {"city": "Oslo"}}') == asked
    assert message(role="assistant", content="", function_call={"name": "f", "arguments": '{"city": "Oslo"}'}) == asked
    result = message(role="tool", content={"temp": 3, "é": None}, tool_call_id="c1", name="f")
    assert result == Message(Role.TOOL, '{"temp": 3, "é": null}', None, {"name": "f", "tool_call_id": "c1"})
    assert message(role="observation", content="").text == message(role="tool", content=None).text == ""


def test_tools_are_refused_where_part_of_them_would_be_lost() -> None:
    with pytest.raises(UnusableError, match="`function_call` and `tool_calls`"):
        message(role="assistant", content="", function_call={"name": "g"}, tool_calls=[CALL])
    with pytest.raises(UnusableError) as error:
        message(role="tool", content=[{"type": "text", "text": "a map"}, {"type": "image_url", "image_url": "x"}])
    assert error.value.found == "content of type image_url, text"
    assert message(role="tool", content=[{"type": "city"}]).text == '[{"type": "city"}]'


def test_reasoning_is_passed_to_the_template() -> None:
    assert message(role="assistant", content="4", reasoning="on").fields is None
    assert is_mode("reasoning", "High") and not is_mode("reasoning", "2+2")
    for key in ("reasoning_content", "thinking", "reasoning"):
        assert message(role="assistant", content="4", **{key: "2+2"}) == Message(
            Role.ASSISTANT, "4", None, {key: "2+2"}
        )
    assert message(role="assistant", content="<think>\n2+2\n</think>\n\n4").text == "<think>\n2+2\n</think>\n\n4"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "message without text; content of type NoneType"),
        (7, "message without text; content of type int"),
        ("", "empty message"),
        ([], "message without text; content of type list"),
        (
            [{"type": "text", "text": "a"}, {"type": "image_url"}],
            "message without text; content of type image_url, text",
        ),
        ([{"type": "text", "text": "a", "image": "x.png"}], "message without text; content of type text"),
    ],
)
def test_content_that_is_not_text(content: Any, problem: str) -> None:
    with pytest.raises(UnusableError) as error:
        message(role="user", content=content)
    assert "; ".join(filter(None, (error.value.reason, error.value.found))) == problem


def test_marks() -> None:
    for mark in ({"train": True}, {"weight": 1}, {"loss": 1.0}, {"loss_mask": True, "train": None}):
        assert mark_of(mark) is True
    for mark in ({"train": False}, {"weight": 0}, {"loss": False, "loss_mask": 0}):
        assert mark_of(mark) is False
    assert mark_of({"train": None, "role": "user"}) is None
    with pytest.raises(ValueError, match="`weight` is not 0, 1, true or false"):
        mark_of({"weight": 0.5})
    with pytest.raises(ValueError, match="`train` and `weight` disagree"):
        mark_of({"train": True, "weight": 0})
    assert message(role="user", content="q", train=True).stored_role is Role.ASSISTANT
    assert message(role="user", content="q", weight=0).stored_role is Role.ASSISTANT_NO_LOSS


def test_keys_without_a_meaning_are_noted() -> None:
    unused: set[str] = set()
    turn = {"role": "user", "content": "q", "id": 7, "date": "x", "images": []}
    assert message_of(Role.USER, turn, ("date",), unused) == Message(Role.USER, "q")
    assert unused == {"messages[].id", "messages[].images"}


def talk(roles: str) -> list[Message]:
    names = {"s": Role.SYSTEM, "u": Role.USER, "a": Role.ASSISTANT, "t": Role.TOOL, "c": Role.CONTEXT}
    return [Message(names[letter], f"{letter}{i}") for i, letter in enumerate(roles)]


@pytest.mark.parametrize(
    ("roles", "notes"),
    [
        ("suaua", set()),
        ("ucca", set()),
        ("uatta", set()),
        ("uua", {"two messages of one role in a row"}),
        ("suasua", {"a system message after the start"}),
        ("saua", {"starts with the assistant"}),
        ("uau", {"ends without a reply"}),
    ],
)
def test_irregular_orders_are_allowed_and_noted(roles: str, notes: set[str]) -> None:
    found: set[str] = set()
    assert in_order(talk(roles), "allow", found) == tuple(talk(roles)) and found == notes


def test_consecutive_roles_merged_or_refused() -> None:
    found: set[str] = set()
    assert [m.text for m in in_order(talk("suuuaa"), "merge", found)] == ["s0", "u1\n\nu2\n\nu3", "a4\n\na5"]
    marked = [
        *talk("ua"),
        Message(Role.ASSISTANT, "b", False),
        Message(Role.ASSISTANT, "", None, {"tool_calls": [CALL]}),
    ]
    assert in_order(marked, "merge", found) == tuple(marked)
    with pytest.raises(UnusableError, match="roles do not alternate") as error:
        in_order(talk("uaa"), "refuse", found)
    assert error.value.found == "two messages of the assistant in a row"
    assert in_order(talk("uatta"), "refuse", found) == tuple(talk("uatta"))
