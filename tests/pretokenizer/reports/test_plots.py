"""plots.py"""

import re
from pathlib import Path

import numpy as np
import pytest

from pretokenizer.reports.plots import plot_lengths

pytest.importorskip("matplotlib")
LENGTHS = {"train": np.array([1, 5, 100, 1000, 1000]), "val": np.array([7])}


def test_the_same_lengths_give_the_same_picture(tmp_path: Path) -> None:
    plot_lengths(LENGTHS, tmp_path / "a.png")
    plot_lengths(LENGTHS, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_labels_are_the_bounds_and_counts(tmp_path: Path) -> None:
    plot_lengths(LENGTHS, tmp_path / "a.svg")
    labels = re.findall(r"<!-- (.*?) -->", (tmp_path / "a.svg").read_text())
    assert labels == [
        *("0", "16", "32", "64", "128", "256", "512", "1,024", "documents", "2", "1", "2", "train: 5 documents"),
        *("0", "16", "tokens per document", "documents", "1", "val: 1 document"),
    ]


def test_a_split_without_documents_is_drawn_empty(tmp_path: Path) -> None:
    plot_lengths({"train": np.array([3]), "val": np.empty(0, np.int64)}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
