"""The number of packed rows equals that of placing one document after another."""

import numpy as np
import pytest

from pretokenizer.figures.packing import best_fit


@pytest.mark.parametrize(
    ("lengths", "capacity", "expected"),
    [
        ([6, 5, 5, 4], 10, [0, 1, 1, 0]),
        ([10, 10], 10, [0, 1]),
        ([7, 7, 3], 10, [0, 1, 1]),
        ([3] * 7, 10, [0, 0, 0, 1, 1, 1, 2]),
        ([9, 9, 8, 3, 3, 3, 3], 15, [0, 1, 2, 1, 1, 0, 0]),
        ([0, 0], 10, [0, 0]),
        ([], 10, []),
    ],
)
def test_best_fit(lengths: list[int], capacity: int, expected: list[int]) -> None:
    assert best_fit(np.array(lengths, dtype=np.int64), capacity) == expected


def one_by_one(lengths: list[int], capacity: int) -> list[int]:
    """Return the row of each document. It goes into the fullest row with enough space, and among equals the latest."""
    left: list[int] = []
    by_last_use: list[int] = []
    placed = []
    for length in lengths:
        fitting = [row for row in reversed(by_last_use) if left[row] >= max(length, 1)]
        if fitting:
            row = min(fitting, key=lambda row: left[row])
            by_last_use.remove(row)
        else:
            row = len(left)
            left.append(capacity)
        left[row] -= length
        by_last_use.append(row)
        placed.append(row)
    return placed


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_those_of_one_document_after_another(seed: int) -> None:
    lengths = np.sort(np.random.RandomState(seed).randint(0, 101 if seed % 2 else 30, 200))[::-1]
    assert best_fit(lengths, 100) == one_by_one(lengths.tolist(), 100)
