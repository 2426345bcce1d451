import re
from pathlib import Path

import pytest

from pretokenizer.reports import plots
from pretokenizer.reports.plots import Histogram, draw, drawing
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl

pytest.importorskip("matplotlib")
HISTOGRAMS: dict[str, Histogram] = {
    "train": ([0, 16, 32, 64, 128, 256, 512, 1024, 2048], [2, 0, 0, 1, 0, 0, 2, 0]),
    "val": ([0, 16], [1]),
}


def test_the_same_lengths_give_the_same_picture(tmp_path: Path) -> None:
    draw(HISTOGRAMS, tmp_path)
    first = [(tmp_path / name).read_bytes() for name in ("lengths.png", "lengths.svg")]
    draw(HISTOGRAMS, tmp_path)
    assert first[0][:8] == b"\x89PNG\r\n\x1a\n"
    assert first == [(tmp_path / name).read_bytes() for name in ("lengths.png", "lengths.svg")]


def test_the_labels_are_the_bounds_and_counts(tmp_path: Path) -> None:
    draw({**HISTOGRAMS, "val": ([0, 16], [0])}, tmp_path)
    labels = re.findall(r"<text[^>]*>(.*?)</text>", (tmp_path / "lengths.svg").read_text())
    assert labels == [
        *("0", "16", "32", "64", "128", "256", "512", "1,024", "documents", "2", "1", "2", "train: 5 documents"),
        *("0", "tokens per document", "documents", "val: 0 documents"),
    ]


def test_a_build_draws_its_lengths(build_toy: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "has_plots", lambda: True)
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(4))
    _, folder = build_toy(["gsm8k"])
    assert (folder / "lengths.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "![lengths](lengths.png)" in (folder / "stats.md").read_text()
    assert "<svg" in (folder / "stats.html").read_text()
    assert not (folder / "lengths.svg").exists()


def test_without_documents_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "has_plots", lambda: True)
    with drawing({"train": ([], [])}, tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretokenizer.reports.plots.has_plots", lambda: True)
    histograms = {"train": ([8, 16, 32], [3, 1])}
    with (
        pytest.raises(OSError, match=r"missing/lengths\.png: cannot be drawn: .*No such file"),
        drawing(histograms, tmp_path / "missing"),
    ):
        pass
