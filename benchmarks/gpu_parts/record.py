"""Record the results of one part of the GPU report, row by row, so that a part that is cut keeps its earlier rows.

record = Record(Path("kernels.jsonl"))
record.row(layers=8, tokens_per_second=12345.0)                        # a measurement
record.check("attention bf16", measured=0.004, limit=0.02)             # passed, because 0.004 <= 0.02
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class PartSkippedError(Exception):
    """Raised by a part of the GPU report that cannot run on this machine, e.g. without a CUDA device. Says why."""


class Record:
    """The recorded rows of one part of the GPU report. Each row is a JSON object on its own line of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def row(self, **values: Any) -> None:
        """Append a row. A value of None means that the figure could not be measured here."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def check(self, name: str, measured: float, limit: float, **values: Any) -> None:
        """Append a row that passes when `measured` is at most `limit`. NaN does not pass."""
        passed = not math.isnan(measured) and measured <= limit
        self.row(check=name, **values, measured=measured, limit=limit, passed=passed)

    def fact(self, name: str, passed: bool, **values: Any) -> None:
        """Append a row about a condition that holds (`passed`) or does not hold."""
        self.row(check=name, **values, passed=passed)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a record file. A last line that was cut while it was written is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
