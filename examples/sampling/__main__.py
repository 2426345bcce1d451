"""Continuations of a list of prompts by one or several exported models, as sampling reports.

    python -m examples.sampling my-model                                     60 prompts, three configurations
    python -m examples.sampling base stage1 stage2 --prompts my_prompts.jsonl --output_dir reports

A prompt file holds one JSON string a line. One report is written per model; an interrupted run resumes. `make sample`
calls this.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from examples.sampling.generate import CONFIGURATIONS, Configuration, Options, sample
from examples.sampling.report_file import report_name, write_report

PROMPTS = Path(__file__).parent / "prompts_60.jsonl"


def main() -> int:
    options = build_parser().parse_args()
    try:
        prompts = read_prompts(options.prompts)[: options.n]
        chosen = choose(options.configurations)
        for folder in options.folders:
            name = model_name(folder, options.folders)
            print(sample_to_file(folder, name, prompts, chosen, options))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="examples.sampling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="HF_DIR", help="exported models")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="JSON lines of strings [60 shipped prompts]")
    parser.add_argument("--n", type=int, help="take only the first N prompts")
    parser.add_argument("--configurations", nargs="+", default=[c.name for c in CONFIGURATIONS], metavar="NAME")
    parser.add_argument("--output_dir", type=Path, default=Path("output/samples"))
    parser.add_argument("--max_new_tokens", type=int, help="longest continuation in tokens [400]")
    parser.add_argument("--num_samples", type=int, default=2, help="continuations per sampled configuration [2]")
    parser.add_argument("--batch_size", type=int, default=8, help="prompts generated together [8]")
    parser.add_argument("--seed", type=int, default=42)
    return parser


def model_name(folder: Path, folders: list[Path]) -> str:
    """Return the name of a model in its report: the folder's name, after the parent's name when two would be equal.

    >>> model_name(Path("a/hf"), [Path("a/hf"), Path("b/hf"), Path("base")])
    'a/hf'
    """
    path = folder.resolve()
    is_alone = sum(other.resolve().name == path.name for other in folders) < 2
    return path.name if is_alone else f"{path.parent.name}/{path.name}"


def choose(names: list[str]) -> list[Configuration]:
    """Return the sampling configurations with these names. Raises ValueError for an unknown name."""
    known = {configuration.name: configuration for configuration in CONFIGURATIONS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--configurations: no {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names]


def read_prompts(path: Path) -> list[str]:
    """Read prompts from a file with one JSON string a line; blank lines do not count.

    Raises ValueError for a missing file, a file without prompts, and a line of another kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            prompts.append(_prompt(path, number, line))
    if not prompts:
        raise ValueError(f"{path}: holds no prompt; write one JSON string a line")
    return prompts


def _prompt(path: Path, number: int, line: str) -> str:
    try:
        prompt = json.loads(line)
    except ValueError:
        prompt = None
    if not isinstance(prompt, str):
        raise ValueError(f'{path}:{number}: is not a JSON string, such as "Why is the sky blue?"')
    return prompt


def sample_to_file(
    folder: Path, name: str, prompts: list[str], configurations: list[Configuration], options: argparse.Namespace
) -> Path:
    """Let one model continue the prompts, write its sampling report, and return the report's path.

    `name` is the model's name in the report. A call with the same settings resumes one that was interrupted.
    """
    if options.max_new_tokens:
        longest = {"max_new_tokens": options.max_new_tokens}
        configurations = [Configuration(c.name, c.generate_args | longest) for c in configurations]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    path = Path(options.output_dir / report_name(name, "default", datetime.now(UTC).isoformat()))
    progress = options.output_dir / f"{path.stem[11:]}.partial.jsonl"  # without the date, which may change
    how = Options(options.seed, options.num_samples, options.batch_size, progress)
    report = sample(folder, prompts, configurations, how)
    write_report(path, report | {"model_name": name})
    progress.unlink(missing_ok=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
