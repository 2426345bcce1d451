"""The command line: what is typed -> configuration and options -> the stage's functions."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from pretokenizer.config.sections import load_sections, merge_sections
from pretokenizer.config.settings import PretokenizeConfig, RunOptions, make_config
from pretokenizer.config.yaml_config import from_mapping, suggest

Command = Callable[[list[str]], int]
_LIST_KEYS = ("datasets", "datasets_extra", "decontaminate")


class UsageError(ValueError):
    """A command line that cannot be understood."""


class _Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving the program; no abbreviations."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def run_command(arguments: list[str]) -> int:
    """Run `build`, `merge`, `inspect` or `check`; the exit status."""
    commands: dict[str, Command] = {"build": _build, "merge": _merge, "inspect": _inspect, "check": _check}
    import pretokenizer.__main__ as program

    if arguments[:1] in (["-h"], ["--help"]):
        print((program.__doc__ or "").strip())
        return 0
    if not arguments or arguments[0] not in commands:
        given = (
            f"unknown command {arguments[0]!r}{suggest(arguments[0], commands)}" if arguments else "no command given"
        )
        raise UsageError(f"{given}; commands: {', '.join(commands)}\n\n{(program.__doc__ or '').strip()}")
    return commands[arguments[0]](arguments[1:])


def _build(arguments: list[str]) -> int:
    parser = _build_parser()
    known, rest = parser.parse_known_args(arguments)
    sections = load_sections([Path(folder) for folder in known.config_dir])
    merged = merge_sections(sections, known.configs)
    merged |= parse_keys(rest, parser)
    config, warnings = make_config(merged, "+".join(known.configs))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    options = from_mapping(RunOptions, {f.name: getattr(known, f.name) for f in fields(RunOptions)}, "command line")
    from pretokenizer.build import build
    from pretokenizer.merge import build_part
    from pretokenizer.reports.summary import print_summary

    if options.part is not None:
        print(f"part: {build_part(config, options)}")
    else:
        print_summary(build(config, options), config.output_folder)
    return 0


def _build_parser() -> _Parser:
    parser = _Parser(
        prog="python -m pretokenizer build",
        description="Build a folder of shards. Every key of a section is a flag of the same name as well: --KEY VALUE;"
        "\n--no-KEY unsets it. Keys: " + ", ".join(f.name for f in fields(PretokenizeConfig)),
    )
    parser.add_argument("--configs", nargs="+", required=True, metavar="NAME", help="sections, merged left to right")
    parser.add_argument(
        "--config_dir", action="append", default=[], metavar="DIR", help="folder with more *.yaml sections"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1); the bytes do not depend on it")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished output, or start over")
    parser.add_argument("--strict", action="store_true", help="stop at a bad record instead of counting it")
    _add_max_bad_fraction(parser)
    parser.add_argument("--executor", choices=("local", "ray"), default="local", help="where the work is done")
    parser.add_argument("--part", type=int, metavar="i", help="build only part i of --num_parts, from 0; then merge")
    parser.add_argument("--num_parts", type=int, metavar="n")
    return parser


def _add_max_bad_fraction(parser: argparse.ArgumentParser) -> None:
    text = "stop when a data set has a larger share of bad records (default 0.05)"
    parser.add_argument("--max_bad_fraction", type=float, default=0.05, metavar="SHARE", help=text)


def parse_keys(arguments: list[str], parser: argparse.ArgumentParser) -> dict[str, Any]:
    """`--KEY VALUE`, `--KEY` (true), `--no-KEY` (unset) as a mapping. Raises UsageError for an unknown key."""
    keys = [f.name for f in fields(PretokenizeConfig)]
    own = [option.lstrip("-") for action in parser._actions for option in action.option_strings]
    values: dict[str, Any] = {}
    position = 0
    while position < len(arguments):
        flag = arguments[position]
        name, has_value, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--"):
            raise UsageError(f"unexpected argument {flag!r}")
        position += 1
        if name.startswith("no-") and name.removeprefix("no-") in keys:
            values[name.removeprefix("no-")] = None
            continue
        if name not in keys:
            raise UsageError(f"unknown flag --{name}{suggest(name, [*keys, *own])}")
        given = [value] if has_value else []
        while not has_value and position < len(arguments) and not arguments[position].startswith("--"):
            given.append(arguments[position])
            position += 1
            if name not in _LIST_KEYS:
                break
        if name in _LIST_KEYS:
            values[name] = [item for text in given for item in text.split(",") if item]
        else:
            values[name] = given[0] if given else True
    return values


def _merge(arguments: list[str]) -> int:
    parser = _Parser(
        prog="python -m pretokenizer merge", description="Join the parts of `build --part` into one folder."
    )
    parser.add_argument("parts", nargs="+", metavar="PART_DIR")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--overwrite", action="store_true")
    _add_max_bad_fraction(parser)
    given = parser.parse_args(arguments)
    from pretokenizer.merge import merge
    from pretokenizer.reports.summary import print_summary

    options = RunOptions(overwrite=given.overwrite, max_bad_fraction=given.max_bad_fraction)
    print_summary(merge([Path(part) for part in given.parts], Path(given.output_dir), options), Path(given.output_dir))
    return 0


def _inspect(arguments: list[str]) -> int:
    parser = _Parser(prog="python -m pretokenizer inspect", description="Print documents of a shard, coloured by role.")
    parser.add_argument("prefix", help="path up to and without -text.bin")
    parser.add_argument("--num", type=int, default=3, help="documents to print (default 3)")
    parser.add_argument("--start", type=int, default=0, help="first document (default 0)")
    parser.add_argument("--plain", action="store_true", help="no colours: role and loss are written out")
    given = parser.parse_args(arguments)
    from pretokenizer.output.inspect_documents import inspect_shard

    plain = given.plain or not sys.stdout.isatty()
    for text in inspect_shard(given.prefix, given.num, given.start, plain):
        print(text)
    return 0


def _check(arguments: list[str]) -> int:
    parser = _Parser(prog="python -m pretokenizer check", description="Check a folder of shards, or one shard.")
    parser.add_argument("path", metavar="DIR_OR_PREFIX")
    given = parser.parse_args(arguments)
    from pretokenizer.output.check import check_path

    problems, sound = check_path(Path(given.path))
    for problem in problems:
        print(problem)
    print(f"{given.path}: {len(problems)} problem{'s' * (len(problems) != 1)} found" if problems else sound)
    return 1 if problems else 0
