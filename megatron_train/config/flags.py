"""YAML file + flags -> TrainConfig. Flags carry Megatron-LLM's names; a flag beats the file.

    parse(["--config", "configs/train/demo_stage1.yaml", "--lr", "1e-4", "--sequence_parallel"])

A YAML file holds the same names without dashes, flat: `lr: 1e-4`. Unknown names are errors with a suggestion.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import yaml

from megatron_train.config.megatron_llm_flags import ARCHITECTURE, NO_EFFECT
from megatron_train.config.settings import TrainConfig
from pretokenizer.config.paths import find_config
from pretokenizer.config.yaml_config import ConfigError, from_mapping, load_yaml, suggest

GROUPS: dict[str, type[Any]] = typing.get_type_hints(TrainConfig)
OWNER = {field.name: group for group, cls in GROUPS.items() for field in fields(cls)}
"""Setting -> the group of TrainConfig that holds it."""


@dataclass(frozen=True)
class CommandLine:
    """What the user asked for."""

    config: TrainConfig
    ignored: dict[str, str]
    """Flags without effect that were given, with the reason."""
    claims: dict[str, str | None]
    """Architecture flags that were given, to compare with the model."""
    extra_tokens: tuple[str, ...] = ()
    """Of --vocab_extra_ids_list, which has no effect on training; `plan` counts them."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def build_parser() -> argparse.ArgumentParser:
    """One flag per field of TrainConfig, grouped, with its docstring and default as help."""
    parser = _Parser(
        prog="megatron_train",
        usage="%(prog)s [--config FILE] [--flag value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_DESCRIPTION,
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML file of the settings below; repeatable, later ones win",
    )
    for group, cls in GROUPS.items():
        section = parser.add_argument_group(group, (cls.__doc__ or "").strip())
        documented, hints = field_docs(cls), typing.get_type_hints(cls)
        for field in fields(cls):
            options = _flag_options(hints[field.name])
            default = field.default if field.default is not dataclasses.MISSING else None
            shown = (
                ""
                if default in (None, ())
                else f" [{' '.join(map(str, default)) if isinstance(default, tuple) else default}]"
            )
            section.add_argument(
                f"--{field.name}",
                default=argparse.SUPPRESS,
                help=(documented[field.name] + shown).replace("%", "%%"),
                **options,
            )
    legacy = parser.add_argument_group("Megatron-LLM's flags without effect, or compared with the model")
    for name, (values, _) in {**NO_EFFECT, **ARCHITECTURE}.items():
        legacy.add_argument(
            f"--{name}",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
            **({"metavar": "X"} if values else {"action": "store_const", "const": None}),
        )
    return parser


_DESCRIPTION = """Supervised fine-tuning on pretokenized shards.

  torchrun --nproc_per_node 4 -m megatron_train --config configs/train/demo_stage1.yaml [--flag value ...]
  python -m megatron_train plan --config ... --world_size 64     memory, time and layout without GPUs"""


def parse(arguments: Sequence[str]) -> CommandLine:
    """Raises ConfigError with every problem of names and types; validate.py checks values against each other."""
    parser = build_parser()
    known = {action.dest for action in parser._actions}
    for word in arguments:
        name = word[2:].partition("=")[0]
        if word.startswith("--") and name not in known | {"world_size"}:
            raise ConfigError(f"unknown flag --{name}{suggest(name, known)}; --help lists them all")
    given = vars(parser.parse_args(list(arguments)))
    files = given.pop("config")
    settings: dict[str, Any] = {}
    for file in files:
        settings |= _checked_names(load_yaml(find_config("train", file)), file)
    flags = {name: value for name, value in given.items() if name in OWNER}
    config = config_from_settings(settings | flags, " ".join(files) or "command line")
    ignored = {name: NO_EFFECT[name][1] for name in given if name in NO_EFFECT}
    claims = {name: value for name, value in given.items() if name in ARCHITECTURE}
    # Launchers that keep flags in a shell variable pass the quotes of the list along.
    extra = (given.get("vocab_extra_ids_list") or "").strip("\"'")
    return CommandLine(config, ignored, claims, tuple(token for token in extra.split(",") if token))


def config_from_settings(settings: dict[str, Any], source: str) -> TrainConfig:
    """Flat names and values -> TrainConfig. Raises ConfigError naming `source` and every problem."""
    problems, groups = [], {}
    for group, cls in GROUPS.items():
        own = {name: value for name, value in settings.items() if OWNER[name] == group}
        try:
            groups[group] = from_mapping(
                cls, {name: _as_tuple(cls, name, value) for name, value in own.items()}, source
            )
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return TrainConfig(**groups)


def config_to_yaml(config: TrainConfig) -> str:
    """The flat YAML that gives `config` again; written beside every checkpoint."""
    flat = {
        field.name: getattr(getattr(config, group), field.name)
        for group, cls in GROUPS.items()
        for field in fields(cls)
    }
    return yaml.safe_dump(
        {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}, sort_keys=False
    )


def config_table(config: TrainConfig) -> str:
    """Every setting on a few lines, one paragraph per group, for the console."""
    lines = []
    for group, cls in GROUPS.items():
        pairs = [f"{field.name}={_shown(getattr(getattr(config, group), field.name))}" for field in fields(cls)]
        lines.append(textwrap.fill(f"{group + ':':<13} {'  '.join(pairs)}", 140, subsequent_indent=" " * 14))
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "-" if isinstance(value, tuple) else "-" if value is None else str(value)


def field_docs(cls: type[Any]) -> dict[str, str]:
    """Field -> the docstring under it."""
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    docs = {}
    for statement, following in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
        ):
            docs[statement.target.id] = " ".join(str(typing.cast(ast.Constant, following.value).value).split())
    return docs


def _checked_names(mapping: dict[str, Any], file: str) -> dict[str, Any]:
    problems = [f"{file}: unknown setting {name!r}{suggest(name, OWNER)}" for name in mapping if name not in OWNER]
    if problems:
        raise ConfigError("\n".join(problems))
    return mapping


def _as_tuple(cls: type[Any], name: str, value: Any) -> Any:
    is_tuple = typing.get_origin(typing.get_type_hints(cls)[name]) is tuple
    if is_tuple and isinstance(value, (str, int, float)):
        return [str(value)]
    return value


def _flag_options(hint: Any) -> dict[str, Any]:
    """argparse options of a field; values stay text, from_mapping converts and checks them."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return {"metavar": "{" + ",".join(map(str, arguments)) + "}"}
    if typing.get_origin(hint) is tuple:
        return {"nargs": "*", "metavar": "X"}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _flag_options(next(argument for argument in arguments if argument is not type(None)))
    if hint is bool:
        return {"nargs": "?", "const": True, "metavar": "true|false"}
    return {"metavar": {int: "N", float: "X", str: "TEXT"}[hint]}
