"""sources/messages.py"""

from typing import Any

import pytest

from tests.pretokenizer.sources.conftest import Convert

PAIR = [[("user", "q"), ("assistant", "a")]]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversations": [{"role": "prompter", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"prompt": "q", "response": "a"},
        {"prompt": "q", "completion": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "model", "content": "a"}]},
    ],
)
def test_forms(record: dict[str, Any], convert: Convert) -> None:
    for name in ("messages", "sharegpt", "prompt_response", "ikala"):
        assert convert(name, [record]) == [PAIR]


def test_system_beside_the_messages(convert: Convert) -> None:
    expected = [[[("system", "s"), *PAIR[0]]]]
    assert convert("messages", [{"system": "s", "prompt": "q", "response": "a"}]) == expected
    talk = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert convert("sharegpt", [{"system": "s", "conversations": talk}]) == expected


def test_replies_without_loss(convert: Convert) -> None:
    talk = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "train": False},
        {"role": "user", "content": "r", "weight": 0},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "s"},
        {"role": "assistant", "content": "c", "weight": 1, "train": True},
        {"role": "user", "content": "t"},
        {"role": "assistant", "content": "d", "weight": None, "train": None},  # as parquet fills it
    ]
    found = convert("messages", [{"messages": talk}])[0][0]
    assert [role for role, _ in found] == [
        "user",
        "assistant_no_loss",
        "user",
        "assistant_no_loss",
        "user",
        "assistant",
        "user",
        "assistant",
    ]


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        ([], "no assistant message"),
        ([("user", "q")], "no assistant message"),
        ([("user", ""), ("assistant", "a")], "bad: empty message"),
        ([("user", None), ("assistant", "a")], "bad: message without text"),
        ([("user", "q"), ("moderator", "x"), ("assistant", "a")], "bad: unknown role; 'moderator'"),
        ([("user", "q"), ("system", "s"), ("assistant", "a")], "bad: system message after the start"),
        ([("user", [{"type": "image"}]), ("assistant", "a")], "bad: message without text"),
        (
            [("user", "q"), ("human", "r"), ("gpt", "a")],
            "bad: roles do not alternate; two messages of the user in a row",
        ),
        (
            [("user", "q"), ("gpt", "a"), ("model", "b")],
            "bad: roles do not alternate; two messages of the assistant in a row",
        ),
    ],
)
def test_what_is_left_out(talk: list[tuple[str, Any]], reason: str, convert: Convert) -> None:
    record = {"messages": [{"role": role, "content": text} for role, text in talk]}
    assert convert("messages", [record]) == [reason]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": "q"}, "bad: has an unexpected form (the messages are no list); its keys: messages"),
        ({"messages": [7]}, "bad: has an unexpected form ('int' object is not subscriptable); its keys: messages"),
        ({"messages": [{"content": "q"}]}, "bad: lacks the key 'role'; its keys: messages"),
        (
            {"messages": [{"role": ["user"], "content": "q"}]},
            "bad: has an unexpected form (unhashable type: 'list'); its keys: messages",
        ),
        (
            {"prompt": "q", "response": "a", "weight": 2},
            "bad: has an unexpected form (`weight` is neither 0 nor 1); its keys: prompt, response, weight",
        ),
        (
            {"prompt": "q", "response": "a", "train": "no"},
            "bad: has an unexpected form (`train` is neither true nor false); its keys: prompt, response, train",
        ),
    ],
)
def test_records_of_another_form(record: dict[str, Any], reason: str, convert: Convert) -> None:
    assert convert("messages", [record]) == [reason]


def test_contexts_stand_between_speakers(convert: Convert) -> None:
    talk = [("user", "q"), ("context", "c"), ("context", "d"), ("assistant", "a")]
    record = {"messages": [{"role": role, "content": text} for role, text in talk], "lang": 5}
    assert convert("messages", [record]) == [[talk]]
