"""Test and measure the trainer on one GPU, in at most 8 minutes, and write the report benchmarks/gpu/<device>.md.

    make gpu-report                              every part, the most valuable first
    python -m benchmarks.gpu_report --small --output_dir /tmp/report      tiny sizes, to try the program on a CPU

Each part is a process of its own under its own time limit. When a part fails, hangs or is cut, the report says why,
keeps the rows that the part has recorded, and the next part runs. The page and <device>.json, with the same content,
are written after every part, so an interrupted report keeps what it has. One GPU shows nothing about TP, PP or DP above
1: NCCL needs a GPU for each rank.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.record import PartSkippedError, Record, read_rows
from megatron_train.__main__ import set_cuda_defaults
from megatron_train.parallel.distributed import freeze_imports

ROOT = Path(__file__).resolve().parent.parent
TOTAL_SECONDS = 480


@dataclass(frozen=True)
class Part:
    """A part of the GPU report. `module`.`function` is called with (record, small) to measure it."""

    name: str
    limit: float
    """Seconds after which the part is cut."""
    module: str
    function: str = "run"

    def __str__(self) -> str:
        """Return the part as a word of the command line, which `parsed` reads."""
        return f"{self.name}={self.module}:{self.function}"

    @classmethod
    def parsed(cls, word: str) -> Part:
        name, _, place = word.partition("=")
        module, _, function = place.partition(":")
        return cls(name, 0.0, module, function)


SCHEDULE = (
    Part("environment", 20, "benchmarks.gpu_parts.environment"),
    Part("kernels", 30, "benchmarks.gpu_parts.kernels"),
    Part("parity", 60, "benchmarks.gpu_parts.parity"),
    Part("checkpoints", 60, "benchmarks.gpu_parts.checkpoints"),
    Part("failures", 30, "benchmarks.gpu_parts.failures"),
    Part("memory", 70, "benchmarks.gpu_parts.memory"),
    Part("speed", 120, "benchmarks.gpu_parts.speed"),
    Part("kernel times", 25, "benchmarks.gpu_parts.speed", "kernel_times"),
    Part("transformer engine", 35, "benchmarks.gpu_parts.transformer_engine"),
    Part("beside transformers", 60, "benchmarks.gpu_parts.beside_transformers"),
)
"""The parts, the most valuable first. The limits add up to more than TOTAL_SECONDS, because few parts use theirs up."""
TITLES = {
    "environment": "Environment",
    "kernels": "Kernels beside fp64",
    "parity": "Six kinds of models beside recorded CPU results",
    "checkpoints": "Checkpoints from the CPU to this device and back",
    "failures": "Failures",
    "memory": "Memory: `plan` beside the measured peak",
    "speed": "Speed of training steps",
    "kernel times": "Kernels of two training steps by time",
    "transformer engine": "Transformer Engine",
    "beside transformers": "Document tokens per second beside transformers",
}


@dataclass(frozen=True)
class Result:
    """The result of one part of the GPU report.

    `status` is passed, failed, cut, skipped or not run. `reason` says why the part did not pass. `rows` are what it
    recorded.
    """

    name: str
    status: str
    seconds: float = 0.0
    reason: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)


def main() -> int:
    """Run the report and return 0, or 1 if a part failed or was cut."""
    options = parse_arguments()
    if options.part:
        return run_here([Part.parsed(word) for word in options.part], options)
    with tempfile.TemporaryDirectory() as folder:
        results = run_schedule(SCHEDULE, options, Path(folder))
    for result in results:
        print(f"{result.name:<20} {result.status:<8} {result.seconds:6.1f} s  {result.reason}")
    return 1 if any(result.status in ("failed", "cut") for result in results) else 0


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "benchmarks" / "gpu", help="[benchmarks/gpu]")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help=f"limit of all parts [{TOTAL_SECONDS}]")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the program without a GPU")
    parser.add_argument(
        "--together", action="store_true", help="all parts in one process, which starts faster; one crash ends them all"
    )
    parser.add_argument("--part", action="append", help=argparse.SUPPRESS)
    parser.add_argument("--records", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def run_schedule(schedule: Sequence[Part], options: argparse.Namespace, folder: Path) -> list[Result]:
    """Run the parts, write the report after each, and return their results. `folder` gets the record files.

    A part that has less than a second left before the limit of all parts is not run.
    """
    deadline = time.monotonic() + options.seconds
    results: list[Result] = []
    groups = [list(schedule)] if options.together else [[part] for part in schedule]
    for group in groups:
        left = deadline - time.monotonic()
        limit = min(left, sum(part.limit for part in group))
        if limit < 1:
            results += [Result(part.name, "not run", reason=f"the {options.seconds:.0f} s are over") for part in group]
        else:
            results += run_process(group, limit, options.small, folder)
        write_report(results, options.output_dir)
    return results


def run_process(group: Sequence[Part], limit: float, small: bool, folder: Path) -> list[Result]:
    """Run parts one after another in a new process, for at most `limit` seconds, and return their results."""
    words = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_report", "--records", str(folder)]
    words += ["--small"] if small else []
    for part in group:
        words += ["--part", str(part)]
    log = folder / "log"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    set_cuda_defaults(environment)
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        started = time.monotonic()
        try:
            code = process.wait(limit)
            ending = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        except subprocess.TimeoutExpired:
            code, ending = None, f"still running after {limit:.0f} s"
        finally:
            end_session(process)
    message = last_line(log)
    return [result_of(part, folder, code, f"{ending}: {message}", time.monotonic() - started) for part in group]


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and the processes that it has started, if any of them is left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def result_of(part: Part, folder: Path, code: int | None, ending: str, seconds: float) -> Result:
    """Return the result of a part from its record, after its process has ended with `code` (None: it was cut).

    `ending` and `seconds` describe the end of the process. They count when the record does not say how the part ended.
    """
    path = record_path(folder, part)
    rows = read_rows(path) if path.is_file() else []
    end: dict[str, Any] = next((row for row in rows if "part_ends" in row), {})
    rows = [row for row in rows if "part_ends" not in row]
    wrong = [row["check"] for row in rows if row.get("passed") is False]
    if end:
        seconds, status, reason = end["seconds"], end["part_ends"], end["reason"]
    else:
        status, reason = "cut" if code is None else "failed", ending
    if status == "passed" and wrong:
        status, reason = "failed", f"{len(wrong)} of {len(rows)} rows: {wrong[0]}"
    return Result(part.name, status, seconds, reason, rows)


def run_here(parts: Sequence[Part], options: argparse.Namespace) -> int:
    """Run parts in this process and return exit code 0. The last line of each record says how its part ended."""
    for part in parts:
        record, started = Record(record_path(options.records, part)), time.monotonic()
        status, reason = "passed", ""
        try:
            function = getattr(importlib.import_module(part.module), part.function)
            gc.collect()
            freeze_imports()
            function(record, options.small)
        except PartSkippedError as error:
            status, reason = "skipped", str(error)
        except Exception as error:
            status, reason = "failed", described(error)
        record.row(part_ends=status, seconds=time.monotonic() - started, reason=reason)
    return 0


def described(error: Exception) -> str:
    """Return the kind of an error, the first line of its message, and the file and line that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message} ({Path(place.filename).name}:{place.lineno})"


def record_path(folder: Path, part: Part) -> Path:
    return folder / f"{part.name.replace(' ', '_')}.jsonl"


def last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"


def write_report(results: Sequence[Result], output_dir: Path) -> None:
    """Write the report as <device>.json and <device>.md. The environment part has found the device's name."""
    facts = {row.get("item"): row.get("value") for result in results for row in result.rows}
    device = str(facts.get("device") or "unknown device")
    name = "cpu" if device.startswith("CPU") else re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    output_dir.mkdir(parents=True, exist_ok=True)
    content = {"device": device, "parts": [asdict(result) for result in results]}
    (output_dir / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (output_dir / f"{name}.md").write_text(page(device, results), encoding="utf-8")


def page(device: str, results: Sequence[Result]) -> str:
    """Return the report as Markdown: how each part ended, then the rows of each part."""
    lines = [f"# {device}", "", "Written by `make gpu-report`.", "", "| part | result | seconds | reason |"]
    lines += ["|---|---|---:|---|"]
    lines += [f"| {r.name} | {r.status} | {r.seconds:.0f} | {cell(r.reason)} |" for r in results]
    for result in results:
        if result.rows:
            lines += ["", f"## {TITLES.get(result.name, result.name)}", *table(result.rows)]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table with a column for each key of the rows, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |", "|" + "---|" * len(columns)]
    return head + [f"| {' | '.join(cell(row.get(column)) for column in columns)} |" for row in rows]


def cell(value: Any) -> str:
    """Return a value as the text of a table cell. None is a dash, and numbers have four significant digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
