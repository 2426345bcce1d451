"""Sampling reports in the layout of Open-Assistant's oasst-model-eval: its viewer reads ours, and we read its files.

{"model_name": ..., "date": ..., "args": {...}, "prompts": [
    {"prompt": ..., "results": [{"sampling_config": "greedy", "sampling_params": {...}, "outputs": ["..."]}]}]}
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pretokenizer.files.publish import write_text_atomic

Report = dict[str, Any]


def read_report(path: Path) -> Report:
    """Read a sampling report. Raises ValueError when the file is missing, not JSON, or not a sampling report."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a sampling report: {error}") from None
    problem = _problem_of(report)
    if problem:
        raise ValueError(f"{path}: is not a sampling report: {problem}")
    return dict(report)


def _problem_of(report: Any) -> str | None:
    """Return what is wrong with the contents of a sampling report as text, or None."""
    if not isinstance(report, dict) or not isinstance(report.get("model_name"), str):
        return "it needs an object with a string `model_name`"
    if not isinstance(report.get("prompts"), list):
        return "`prompts` must be a list"
    for number, entry in enumerate(report["prompts"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
            return f"prompts[{number}] needs a string `prompt`"
        if not isinstance(entry.get("results"), list):
            return f"prompts[{number}] needs a list `results`"
        for result in entry["results"]:
            outputs = result.get("outputs") if isinstance(result, dict) else None
            if not isinstance(outputs, list) or not all(isinstance(text, str) for text in outputs):
                return f"prompts[{number}]: every result needs a list of strings `outputs`"
    return None


def write_report(path: Path, report: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, json.dumps(report, ensure_ascii=False, indent=2) + "\n")


def new_report(model_name: str, arguments: dict[str, Any], prompts: list[dict[str, Any]]) -> Report:
    """Return a sampling report with the present time as its date.

    `arguments` are the settings of the run, of which those without a value are left out. `prompts` are the entries with
    prompt and results.
    """
    return {
        "model_name": model_name,
        "date": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        "args": {key: value for key, value in arguments.items() if value is not None},
        "prompts": prompts,
    }


def report_name(model_name: str, config_name: str, date: str) -> str:
    """Return the file name of a sampling report, such as `2023-08-14_my_model_sampling_default.json`."""
    return f"{date[:10]}_{re.sub(r'[^A-Za-z0-9_-]', '_', model_name)}_sampling_{config_name}.json"
