"""Counts of a campaign: a line for each finished part, its problems, and the exit status."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

RESULTS_VARIABLE = "FAULTS_RESULTS"
"""The environment variable with the file to which each part appends its counts, for the table of `make faults`."""


class Tally:
    """Counts and problems of the parts of one campaign."""

    def __init__(self, campaign: str, seed: int) -> None:
        self.campaign, self.seed = campaign, seed
        self.num_problems = 0
        self.started = time.monotonic()

    def add(self, part: str, cases: int, problems: list[str], line: str = "") -> None:
        """Add and print one part with its cases, problems and remarks."""
        seconds, self.started = time.monotonic() - self.started, time.monotonic()
        self.num_problems += len(problems)
        words = line or f"{cases:,} cases"
        print(
            f"{self.campaign}: {part}: {words}; {len(problems)} problems (seed {self.seed}, {seconds:.0f} s)",
            flush=True,
        )
        for problem in problems[:10]:
            print(f"  {problem}", flush=True)
        if path := os.environ.get(RESULTS_VARIABLE):
            row = {
                "campaign": self.campaign,
                "part": part,
                "summary": words,
                "problems": len(problems),
                "seconds": seconds,
            }
            with Path(path).open("a") as file:
                file.write(json.dumps({**row, "seed": self.seed}) + "\n")

    def close(self) -> int:
        """Return the exit status of the campaign, which is 1 after a problem."""
        return 1 if self.num_problems else 0
