"""The audit samples conversations, counts their tokens, and names the rules that disagree."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pretokenizer.audit.loss_rules import Audited
from pretokenizer.audit.show import audit, render, summary
from pretokenizer.records.json_text import RecordError
from tests.pretokenizer.conftest import make_toy_config, question_records, write_jsonl

AUDITED = Audited(
    ["q", "h", "a", "e\x1b"],
    {"build": np.array([0, 1, 1, 1], bool), "prefix": np.array([0, 0, 1, 1], bool)},
    {"marks": "none", "trl": "none"},
)


def test_disagreement_names_the_rules() -> None:
    assert render(AUDITED, plain=True) == "q[build: h][*ae\\x1b]"
    assert render(AUDITED, plain=False) == "q\033[31;1m[build: h]\033[0m\033[32;4mae\\x1b\033[0m"


def test_the_table_counts_tokens() -> None:
    lines = list(summary([AUDITED, AUDITED]))
    assert lines[0] == "2 conversations, 8 tokens"
    assert [line.split()[-4:] for line in lines[3:7]] == [
        ["2", "6", "0", "0"],
        ["generation", "%}", "marks", "0"],
        ["TRL,", "assistant_only_loss", "0"],
        ["2", "4", "0", "2"],
    ]
    assert lines[7:] == [
        "{% generation %} marks: no answer for 2 conversations: none",
        "TRL, assistant_only_loss: no answer for 2 conversations: none",
    ]


def test_the_table_counts_tokens_that_straddle_the_border_of_a_reply() -> None:
    lines = list(summary([dataclasses.replace(AUDITED, straddling=1000), AUDITED]))
    assert lines[7] == "1,000 of the tokens straddle the border of a reply and get no loss in this build."


def test_the_sample_takes_from_each_data_set_in_turn(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(9))
    write_jsonl(tmp_path / "data/joke/a.jsonl", [{"joke": "knock knock", "explaination": "who"}])
    lines = list(audit(make_toy_config(tmp_path, ["gsm8k", "joke"]), 4, plain=True))
    assert lines[0].startswith("4 conversations, ")
    assert sum("What is " in line for line in lines) == 3
    assert sum("knock knock" in line for line in lines) == 1


def test_without_a_conversation_there_is_an_error(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [{"x": 1}])
    with pytest.raises(RecordError, match="no conversation could be rendered"):
        list(audit(make_toy_config(tmp_path, ["gsm8k"]), 4, plain=True))
