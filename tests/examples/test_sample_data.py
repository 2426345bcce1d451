"""The demo's sample conversations are many and different, and have the record format of their data set."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.paths import ROOT

DATA = ROOT / "examples" / "data"


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def sharegpt() -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((DATA / "sharegpt" / "train.json").read_text(encoding="utf-8"))
    return records


def first_answers() -> Iterator[str]:
    """Return the first assistant message of each conversation. For a message tree, this is the best-ranked reply."""
    yield from (record["answer"] for name in ("train", "test") for record in lines(f"gsm8k/{name}.jsonl"))
    yield from (record["output"] for record in lines("alpaca/train.jsonl"))
    for record in lines("messages/train.jsonl"):
        yield next(message["content"] for message in record["messages"] if message["role"] == "assistant")
    for record in sharegpt():
        yield next(turn["value"] for turn in record["conversations"] if turn["from"] == "gpt")
    yield from (
        tree["prompt"]["replies"][0]["text"] for tree in lines("oasst_trees.jsonl") if tree["prompt"]["replies"]
    )


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?:。!?])\s|\n", text.strip(), maxsplit=1)[0].casefold()


def test_there_are_at_least_300_conversations_and_no_two_begin_their_answer_alike() -> None:
    sentences = Counter(first_sentence(answer) for answer in first_answers())
    assert sentences.total() >= 300
    assert [sentence for sentence, count in sentences.items() if count > 1] == []


def test_some_have_several_turns_and_some_a_system_message() -> None:
    roles = [[message["role"] for message in record["messages"]] for record in lines("messages/train.jsonl")]
    assert sum(row.count("user") > 1 for row in roles) == 38
    assert sum(row[0] == "system" for row in roles) == 30


def test_records_have_the_keys_of_their_data_set() -> None:
    assert {tuple(record) for record in lines("gsm8k/train.jsonl")} == {("question", "answer")}
    assert {tuple(record) for record in lines("alpaca/train.jsonl")} == {("instruction", "input", "output")}
    assert {"message_tree_id", "tree_state", "prompt"} <= set(lines("oasst_trees.jsonl")[0])
    assert {turn["from"] for record in sharegpt() for turn in record["conversations"]} == {"human", "gpt"}


def test_worked_steps_of_the_word_problems_are_right() -> None:
    for record in lines("gsm8k/train.jsonl") + lines("gsm8k/test.jsonl"):
        for left, right in re.findall(r"<<([0-9+\-*/.() ]+)=([0-9.\-]+)>>", record["answer"]):
            assert abs(eval(left, {"__builtins__": {}}) - float(right)) < 0.01, record["question"]
