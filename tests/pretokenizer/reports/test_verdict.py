"""The report recommends a row length, a batch size and epochs that suit the data."""

import json
from pathlib import Path

import numpy as np
import pytest

from pretokenizer.figures.lengths import length_report
from pretokenizer.reports.verdict import recommended_batch, recommended_epochs, recommended_length
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl


@pytest.mark.parametrize(("longest", "seq_length"), [(100, 512), (513, 1024), (8000, 8192), (99_999, 32768)])
def test_the_recommended_length_cuts_at_most_one_percent(longest: int, seq_length: int) -> None:
    lengths = np.array([*[100] * 98, longest, longest])
    assert recommended_length(length_report(lengths), lengths.size).seq_length == seq_length


def test_the_recommended_batch_and_epochs_suit_small_data() -> None:
    assert [recommended_batch(rows) for rows in (1, 59, 60, 500, 10_000)] == [1, 1, 2, 16, 64]
    assert [recommended_epochs(count) for count in (10, 20_000, 200_000)] == [3, 2, 1]


def test_the_report_opens_with_sentences(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [*question_records(4), *question_records(1)])
    _, folder = build_toy(["gsm8k"])
    lines = (folder / "stats.md").read_text().splitlines()
    assert lines[2].startswith("Train has 5 documents with ") and lines[2].endswith("; there is no val split.")
    assert lines[4] == "Set `--seq_length 512`: no document is cut."
    assert "`--global_batch_size 1` and 3 epochs make `--train_iters 3`." in lines[6]
    assert lines[8:12] == [
        "Look at this before training:",
        "",
        "- 1 training documents are exact copies; `--dedup exact` removes them.",
        "- There is no validation data; `val_split: 0.05` sets some aside.",
    ]


def test_tokens_that_straddle_the_border_of_a_reply_are_reported(
    build_toy: BuildToy, tmp_path: Path, byte_level_path: Path, straddling_template: Path
) -> None:
    answers = ("the cat sat", "the dog", "\nsat")
    write_jsonl(tmp_path / "data/messages/a.jsonl", [{"prompt": "the mat", "response": text} for text in answers])
    keys = {"vocab_file": str(byte_level_path), "chat_format": str(straddling_template), "template_loss": "reply"}
    _, folder = build_toy([{"messages": {"val_split": 0}}], **keys)
    report = (folder / "stats.md").read_text()
    assert "- 2 tokens of train straddle the border of a reply: a part of the text is in the prompt" in report
    assert "- Tokens that straddle the border of a reply and get no loss: 2\n" in report
    assert json.loads((folder / "stats.json").read_text())["totals"]["train"]["straddling_tokens"] == 2
