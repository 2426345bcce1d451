"""The pretokenizer: conversations -> shards of token ids and role ids.

    python -m pretokenizer build --configs oasst_pre10_min25 llama2 [--data_dir D] [--output_dir O] [--KEY VALUE ...]
    python -m pretokenizer merge PART_DIR... --output_dir O
    python -m pretokenizer inspect DIR_OR_PREFIX [--num N] [--plain]
    python -m pretokenizer check DIR_OR_PREFIX
    python -m pretokenizer audit --configs oasst_top1 llama2 [--num N] [--plain] [--KEY VALUE ...]

`COMMAND --help` lists the flags of a command. Exit status: 0 for success, 1 for bad data or files, 2 for bad usage or
configuration.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pretokenizer.config.flags import Parser, UsageError, add_flags
from pretokenizer.config.sections import load_sections, merge_sections
from pretokenizer.config.settings import PretokenizeConfig, RunOptions, make_config
from pretokenizer.config.yaml_config import ConfigError, from_mapping, suggest
from pretokenizer.files.publish import forbid_world_writable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments`, by default the command line, and return the exit status of the process.

    An error that the user can fix prints one message without a traceback.
    """
    forbid_world_writable()
    try:
        return run_command(sys.argv[1:] if arguments is None else arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # as in `inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at exit
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130


def run_command(arguments: Sequence[str]) -> int:
    """Run the command that `arguments[0]` names and return its exit status.

    Raises UsageError for a missing or unknown command, and the errors of the command itself.
    """
    usage = (__doc__ or "").strip()
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage)
        return 0
    if not arguments:
        raise UsageError(f"no command given; commands: {', '.join(COMMANDS)}\n\n{usage}")
    name, *rest = arguments
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UsageError(f"unknown command {name!r}{suggest(name, COMMANDS)}; commands: {known}\n\n{usage}")
    return COMMANDS[name](rest)


def _build(arguments: list[str]) -> int:
    from pretokenizer.build import build
    from pretokenizer.merge import build_part
    from pretokenizer.reports.summary import print_summary

    parser = _config_parser("build", "Build a folder of shards.")
    add_flags(parser.add_argument_group("how to run; these flags do not change the output"), RunOptions)
    given = _add_keys(parser).parse(arguments)
    config = _config_of(given)
    options = from_mapping(RunOptions, _values_of(RunOptions, given), "command line")
    if options.part is not None:
        print(f"part: {build_part(config, options)}")
    else:
        print_summary(build(config, options), config.output_folder)
    return 0


def _config_parser(command: str, description: str) -> Parser:
    parser = Parser(
        prog=f"python -m pretokenizer {command}",
        usage="%(prog)s --configs NAME [NAME ...] [--KEY VALUE ...]",
        description=description,
    )
    what = "sections, merged from left to right: a name, FILE.yaml or FILE.yaml:NAME"
    parser.add_argument("--configs", nargs="+", required=True, metavar="NAME", help=what)
    parser.add_argument("--config_dir", action="append", default=[], metavar="DIR", help="folder with more sections")
    return parser


def _add_keys(parser: Parser) -> Parser:
    keys = parser.add_argument_group("keys of a section; --no-KEY unsets a key")
    add_flags(keys, PretokenizeConfig, can_unset=True)
    return parser


def _config_of(given: dict[str, Any]) -> PretokenizeConfig:
    """Return the configuration of the sections in --configs, overridden by the flags given. Print its warnings."""
    sections = load_sections([Path(folder) for folder in given["config_dir"]])
    merged = merge_sections(sections, given["configs"]) | _values_of(PretokenizeConfig, given)
    config, warnings = make_config(merged, "+".join(given["configs"]))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return config


def _values_of(cls: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the given flags that are fields of the dataclass `cls`, as {name: value}.

    The value of a list flag is also split at commas, so `--datasets gsm8k,joke` gives two items.
    """
    values = {field.name: given[field.name] for field in fields(cls) if field.name in given}
    return {
        name: [item for text in value for item in text.split(",") if item] if isinstance(value, list) else value
        for name, value in values.items()
    }


def _merge(arguments: list[str]) -> int:
    from pretokenizer.merge import merge
    from pretokenizer.reports.summary import print_summary

    parser = Parser(
        prog="python -m pretokenizer merge", description="Join the parts of `build --part` into one folder."
    )
    parser.add_argument("parts", nargs="+", metavar="PART_DIR", help="folder that `build --part` wrote")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished output")
    parser.add_argument(
        "--max_bad_fraction", default=0.05, metavar="X", help="stop when a data set has more bad records [0.05]"
    )
    given = parser.parse(arguments)
    options = from_mapping(RunOptions, _values_of(RunOptions, given), "command line")
    final = Path(given["output_dir"])
    print_summary(merge([Path(part) for part in given["parts"]], final, options), final)
    return 0


def _inspect(arguments: list[str]) -> int:
    from pretokenizer.output.inspect_documents import inspect_path

    parser = Parser(prog="python -m pretokenizer inspect", description="Print documents, coloured by role.")
    parser.add_argument("path", metavar="DIR_OR_PREFIX", help="output folder, or the path of a shard up to -text.bin")
    parser.add_argument("--num", type=int, default=3, help="number of documents to print of each shard [3]")
    parser.add_argument("--start", type=int, default=0, help="first document, counted from 0 [0]")
    parser.add_argument("--plain", action="store_true", help="write roles and loss as text instead of colours")
    given = parser.parse(arguments)
    is_plain = given["plain"] or not sys.stdout.isatty()
    for text in inspect_path(Path(given["path"]), given["num"], given["start"], is_plain):
        print(text)
    return 0


def _check(arguments: list[str]) -> int:
    from pretokenizer.output.check import check_path

    parser = Parser(prog="python -m pretokenizer check", description="Verify a folder of shards, or one shard.")
    parser.add_argument("path", metavar="DIR_OR_PREFIX", help="output folder, or the path of a shard up to -text.bin")
    path = Path(parser.parse(arguments)["path"])
    problems, sound = check_path(path)
    for problem in problems:
        print(problem)
    print(f"{path}: {len(problems)} problem{'s' * (len(problems) != 1)} found" if problems else sound)
    return 1 if problems else 0


def _audit(arguments: list[str]) -> int:
    from pretokenizer.audit.show import audit

    parser = _config_parser("audit", "Show which tokens get loss, in a sample of conversations.")
    parser.add_argument("--num", type=int, default=20, help="number of conversations [20]")
    parser.add_argument("--plain", action="store_true", help="write loss as text instead of colours")
    given = _add_keys(parser).parse(arguments)
    for line in audit(_config_of(given), given["num"], given["plain"] or not sys.stdout.isatty()):
        print(line)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "build": _build,
    "merge": _merge,
    "inspect": _inspect,
    "check": _check,
    "audit": _audit,
}

if __name__ == "__main__":
    sys.exit(main())
