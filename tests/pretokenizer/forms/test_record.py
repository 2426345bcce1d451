"""Every usual form of a record gives the same conversation, and an ambiguous record is refused."""

import json
from typing import Any

import pytest

from pretokenizer.forms.record import open_record
from tests.pretokenizer.sources.conftest import Convert

PAIR = [("user", "q"), ("assistant", "a")]
OPENAI = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": OPENAI},
        {"messages": json.dumps(OPENAI)},
        {"messages": None, "conversations": SHAREGPT},
        {"conversations": json.dumps(SHAREGPT)},
        {"conversations": OPENAI},
        {"messages": SHAREGPT},
        {"conversations": [{"from": "User", "value": "q"}, {"from": "chatgpt", "value": "a"}]},
        {"conversations": [{"role": "Prompter", "value": "q"}, {"role": "ASSISTANT", "value": "a"}]},
        {"dialogue": [{"speaker": "user", "text": "q"}, {"speaker": "bot", "text": "a"}]},
        {"conversation": [{"input": "q", "output": "a"}]},
        {"conversation": [{"human": "q", "assistant": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "model", "content": "a"}]},
        {"prompt": "q", "response": "a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": OPENAI[:1], "completion": OPENAI[1:]},
        {"prompt": OPENAI[:1], "completion": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "input": None, "output": "a", "history": [], "text": "q a"},
        {"instruction": "q", "context": "", "response": "a"},
        {"INSTRUCTION": "q", "RESPONSE": "a"},
        {"input": "q", "output": "a"},
        {"question": "q", "answer": "a"},
        {"query": "q", "response": "a"},
        {"inputs": "q", "targets": "a"},
        {"problem": "q", "solution": "a"},
        {"prompt": "q", "messages": OPENAI},
        {"messages": OPENAI, "conversations": SHAREGPT},
        {"messages": [{"role": None, "content": None, **turn} for turn in SHAREGPT]},
        {"messages": [{"role": turn["role"], "content": None, "value": turn["content"]} for turn in OPENAI]},
    ],
)
def test_forms(record: dict[str, Any], convert: Convert) -> None:
    for name in ("messages", "sharegpt", "prompt_response", "ikala"):
        assert convert(name, [record]) == [[PAIR]]


@pytest.mark.parametrize(
    "record",
    [
        {"system": "s", "prompt": "q", "response": "a"},
        {"system_prompt": "s", "question": "q", "response": "a"},
        {"system_message": "s", "messages": OPENAI},
        {"system": "s", "conversations": SHAREGPT},
        {"system": "s", "messages": [{"role": "system", "content": "s"}, *OPENAI]},
        {"conversation": [{"system": "s", "input": "q", "output": "a"}]},
    ],
)
def test_a_system_message_beside_the_turns(record: dict[str, Any], convert: Convert) -> None:
    assert convert("messages", [record]) == [[[("system", "s"), *PAIR]]]


def test_alpaca_with_input_and_history(convert: Convert) -> None:
    record = {"instruction": "q", "input": "i", "output": "a", "system": "s", "history": [["q0", "a0"], ["q1", "a1"]]}
    earlier = [("user", "q0"), ("assistant", "a0"), ("user", "q1"), ("assistant", "a1")]
    expected = [("system", "s"), *earlier, ("user", "q\ni"), ("assistant", "a")]
    assert convert("messages", [record]) == [[expected]]
    assert convert("messages", [{**record, "history": json.dumps(record["history"])}]) == [[expected]]


def test_dolly_with_context(convert: Convert) -> None:
    record = {"instruction": "q", "context": "c [1]", "response": "a", "category": "closed_qa", "label": 3}
    assert convert("messages", [record]) == [[[("user", "q"), ("context", "c [1]"), ("assistant", "a")]]]
    record = {"question": "q", "context": ["c", "d"], "answer": "a"}
    assert convert("messages", [record]) == [[[("user", "q"), ("context", "c\n\nd"), ("assistant", "a")]]]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("q", "has an unexpected form (the messages are not a list)"),
        (["q", 7], "a message is not an object; 'q'"),
        ("[{'role': 'user'}]", "messages as text that is not JSON"),
    ],
)
def test_messages_of_another_type(value: Any, problem: str, convert: Convert) -> None:
    assert convert("messages", [{"messages": value}])[0].startswith(f"bad: {problem}")


def test_replies_inside_a_prompt_get_no_loss(convert: Convert) -> None:
    earlier = [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "a0"}]
    found = convert("messages", [{"prompt": [*earlier, *OPENAI[:1]], "completion": OPENAI[1:]}])
    assert found == [[[("user", "q0"), ("assistant_no_loss", "a0"), *PAIR]]]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": OPENAI, "rejected": OPENAI[:1], "score_chosen": 9.0},
        {"prompt": OPENAI[:1], "chosen": OPENAI[1:], "rejected": []},
        {"question": "q", "chosen": "a", "rejected": "b"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        {"messages": OPENAI, "prompt": "q", "chosen": OPENAI, "rejected": []},
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "b"}},
    ],
)
def test_preferences(record: dict[str, Any], convert: Convert) -> None:
    assert convert("messages", [record], preference="chosen") == [[PAIR]]
    (refused,) = convert("messages", [record])
    assert refused.startswith(
        ("bad: a preference pair or rating needs the option `preference: chosen`", "bad: the key `chosen` ")
    )


def test_marks_beside_the_turns(convert: Convert) -> None:
    silent = [("user", "q"), ("assistant_no_loss", "a")]
    for record in (
        {"prompt": "q", "response": "a", "weight": 0},
        {"messages": OPENAI, "loss_mask": [None, 0]},
        {"messages": OPENAI, "masks": [None, False]},
        {"messages": OPENAI, "train": False},
    ):
        assert convert("messages", [record]) == [[silent]], record
    assert convert("messages", [{"messages": OPENAI, "masks": [1]}]) == [
        "bad: `masks` has not one value for each message; 1 values, 2 messages"
    ]


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ({"prompt": "q", "response": "a", "input": "i"}, "input"),
        ({"problem": "q", "solution": "s", "answer": "a"}, "solution"),
        ({"instruction": "s", "messages": OPENAI}, "instruction"),
        ({"messages": OPENAI, "context": "c"}, "context"),
        ({"messages": OPENAI, "history": [["q", "a"]]}, "history"),
        ({"messages": OPENAI, "images": ["x.png"]}, "images"),
        ({"messages": OPENAI, "chosen": OPENAI}, "chosen"),
        ({"conversation": [{"input": "q", "output": "a", "images": ["x"]}]}, "images"),
        ({"messages": [OPENAI[0], {**OPENAI[1], "images": ["x.png"]}]}, "images"),
    ],
)
def test_a_key_with_a_meaning_is_used_or_refused(record: dict[str, Any], key: str, convert: Convert) -> None:
    remedy = f"remove it, or set `ignore: [{key}]` for the data set"
    assert convert("messages", [record]) == [f"bad: the key `{key}` is not used; {remedy}"]


def test_tools_as_list_text_and_functions() -> None:
    schema = {"name": "f", "parameters": {}}
    wrapped = [{"type": "function", "function": schema}]
    for record in (
        {"tools": wrapped},
        {"tools": json.dumps(wrapped)},
        {"functions": [schema]},
        {"tools": [json.dumps(schema)]},
    ):
        assert open_record({"messages": OPENAI, **record}, None).tools == wrapped
    for empty in (None, "", [], "[]"):
        assert open_record({"messages": OPENAI, "tools": empty}, None).tools is None


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ({"messages": OPENAI, "conversations": [*SHAREGPT, {"from": "human", "value": "other"}]}, "conversations"),
        ({"messages": OPENAI, "system": "s", "system_prompt": "t"}, "system_prompt"),
        ({"messages": OPENAI, "System": "s"}, "System"),
        ({"messages": OPENAI, "systemPrompt": "s"}, "systemPrompt"),
        ({"messages": OPENAI, "train_on_input": True}, "train_on_input"),
        ({"messages": [OPENAI[0], {**OPENAI[1], "trainable": False}]}, "trainable"),
        ({"conversations": SHAREGPT, "kto_tag": False}, "kto_tag"),
        ({"question": "q", "answer": "a", "contexts": ["c"]}, "contexts"),
        ({"Question": "q", "Response": "a", "Complex_CoT": "r"}, "Complex_CoT"),
    ],
)
def test_a_key_that_changes_what_is_learned_is_never_left_out_in_silence(
    record: dict[str, Any], key: str, convert: Convert
) -> None:
    remedy = f"remove it, or set `ignore: [{key}]` for the data set"
    assert convert("messages", [record]) == [f"bad: the key `{key}` is not used; {remedy}"]
    ignoring = convert("messages", [record], ignore=[key])
    assert ignoring in ([[PAIR]], [[[("system", "s"), *PAIR]]])
