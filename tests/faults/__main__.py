"""Run every part of the fault campaign and print a table of the results.

python -m tests.faults --seed 1               # `make faults`: about two hours on two cores, half of them fuzzing
python -m tests.faults --seed 1 --share 0.1   # a tenth of everything
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.tally import RESULTS_VARIABLE

COUNTS = {"kill": 100, "disk": 8, "corrupt": 1000, "recover": 10}
"""Name of each campaign -> its number of runs in the whole campaign (--runs)."""
FUZZ_SECONDS = 600


def commands(seed: int, share: float) -> list[list[str]]:
    """Return the arguments of every part of the campaign."""
    counted = [[name, "--runs", str(max(2, round(count * share)))] for name, count in COUNTS.items()]
    fuzz = ["fuzz", "--seconds", str(max(5, round(FUZZ_SECONDS * share)))]
    return [[*words, "--seed", str(seed)] for words in [["hostile"], ["secrets"], *counted, fuzz]]


def table(rows: list[dict[str, object]]) -> str:
    """Return a Markdown table with one line per part."""
    lines = ["| campaign | part | counts | problems |", "|---|---|---|---:|"]
    return "\n".join([*lines, *(f"| {r['campaign']} | {r['part']} | {r['summary']} | {r['problems']} |" for r in rows)])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the counts and times")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        environment = {**os.environ, RESULTS_VARIABLE: str(results), "OMP_NUM_THREADS": "1", "OASST_DEVICE": "cpu"}
        codes = []
        for words in commands(given.seed, given.share):
            command = [sys.executable, "-W", "ignore", "-m", f"tests.faults.{words[0]}", *words[1:]]
            codes.append(subprocess.run(command, env=environment).returncode)
        print("\n" + table([json.loads(line) for line in results.read_text().splitlines()]))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
