"""The statistics give the published report to the byte, and the same totals in every format."""

import json
from pathlib import Path

import numpy as np

from pretokenizer.figures.stats import DatasetStats, total_stats
from pretokenizer.reports.published import published_report
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl


def stats(name: str, lengths: list[int], skipped: int, samples: int, fraction: float = 1.0) -> DatasetStats:
    return DatasetStats(
        name=name,
        report_name=f"Set ({name})",
        candidates=samples,
        requested=samples,
        samples=samples,
        fraction=fraction,
        accepted=len(lengths),
        skipped={"short": skipped} if skipped else {},
        tokens=sum(lengths),
        role_tokens={"user": 1, "assistant": sum(lengths) - 1},
        languages={"en": len(lengths)},
        control_tokens_in_text=2,
        straddling_tokens=1,
        dropped={"blank": 1},
        lengths=np.array(lengths, dtype=np.int64),
        turns=np.full(len(lengths), 2),
    )


REPORT = """
# Stats for out/x/P-train*

## Stats for 'Set (a)' (4 samples (12.3%))
-----------------
  Accepted: 3/4 (75.0%)
  Accepted tokens: 60
  Skipped: 1 (25.0%)
  Min tokens per sample: 10
  Max tokens per sample: 30
  Avg tokens per sample: 20.0
-----------------

## Stats for 'Set (b)' (3 samples (100.0%))
-----------------
  Accepted: 3/3 (100.0%)
  Accepted tokens: 10
  Skipped: 0 (0.0%)
  Min tokens per sample: 3
  Max tokens per sample: 4
  Avg tokens per sample: 3.3333333333333335
-----------------

## Stats for 'total' (7 samples (100.0%))
-----------------
  Accepted: 6/7 (85.7%)
  Accepted tokens: 70
  Skipped: 1 (14.3%)
  Min tokens per sample: 3
  Max tokens per sample: 30
  Avg tokens per sample: 11.666666666666666
-----------------

"""


def test_published_report_to_the_byte() -> None:
    parts = [stats("a", [10, 20, 30], 1, 4, 0.123), stats("b", [3, 3, 4], 0, 3)]
    assert published_report("out/x/P-train", parts) == REPORT


def test_totals() -> None:
    total = total_stats([stats("a", [10, 20], 1, 4), stats("b", [3], 2, 3)])
    assert (total.accepted, total.processed, total.tokens, total.loss_tokens) == (3, 6, 33, 31)
    assert total.skipped == {"short": 3} and total.languages == {"en": 3}
    assert total.length_figures() == {"min": 3, "mean": 11.0, "median": 10.0, "p95": 19.0, "p99": 19.8, "max": 20}


def test_stats_json_and_markdown_agree(build_toy: BuildToy, tmp_path: Path) -> None:
    records = question_records(4)
    records[2]["question"] = "spell <|im_end|> and <PAD>"
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", records)
    manifest, folder = build_toy(["gsm8k"])
    written = json.loads((folder / "stats.json").read_text())
    figures, lengths = written["splits"]["train"][0], written["lengths"]["train"]
    report = (folder / "stats.md").read_text()
    assert figures["accepted"] == 4 and figures["control_tokens_in_text"] == 2
    assert figures["straddling_tokens"] == 0
    assert sum(figures["role_tokens"].values()) == figures["tokens"] == manifest.splits["train"].tokens
    assert f"| gsm8k | 4 | 4 | 0 | {figures['tokens']:,} |" in report
    assert f"| {figures['loss_tokens'] / figures['tokens']:.1%} |" in report
    assert "Control tokens spelled inside messages: 2 (kept as text)" in report
    assert "Documents by language: en 4." in report
    assert report.count("[assistant*:") == 3
    assert "| 2,048 | 0 (0.0%) | 0 (0.0%) | 1 |" in report
    assert sum(lengths["counts"]) == 4
    assert written["totals"]["train"]["length"] == figures["length"] and written["totals"]["train"]["name"] == "total"
    at_2048 = {"seq_length": 2048, "documents_cut": 0, "tokens_lost": 0, "packed_rows": 1}
    assert at_2048.items() <= lengths["seq_lengths"][2].items()
    assert lengths["iterations_per_epoch"]["16"]["documents"] == 0.25
    assert lengths["iterations_per_epoch"]["1"]["packed_2048"] == 1.0
    assert "| 16 | 0.2 | 0.1 | 0.1 | 0.1 | 0.1 |" in report
    assert written["records"] == [{"name": "gsm8k", "records": 4, "train": 4, "val": 0, "left_out": {}, "bad": {}}]
    assert figures["turns_per_document"]["mean"] == 2.0
