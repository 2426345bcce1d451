"""Turn the command line and YAML files into a TrainConfig. Flags have Megatron-LLM's names, and override files.

    parse(["--config", "demo_stage1", "--lr", "1e-4", "--sequence_parallel"])

A YAML file holds the same names without dashes, flat: `lr: 1e-4`. An unknown name is an error with a suggestion.
"""

from __future__ import annotations

import argparse
import textwrap
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import yaml

from megatron_train.config.foreign_flags import ARCHITECTURE, FOREIGN_FLAGS, NO_EFFECT
from megatron_train.config.settings import TrainConfig
from pretokenizer.config.flags import Parser, add_flags
from pretokenizer.config.paths import find_config
from pretokenizer.config.yaml_config import ConfigError, from_mapping, load_yaml, suggest

GROUPS: dict[str, type[Any]] = typing.get_type_hints(TrainConfig)
OWNER = {field.name: group for group, cls in GROUPS.items() for field in fields(cls)}
"""Name of a setting -> name of the group of TrainConfig that holds it."""

USUAL = {
    *("load", "save", "finetune", "model", "train_data_path", "valid_data_path", "seq_length", "packing"),
    *("micro_batch_size", "global_batch_size", "train_iters", "train_epochs", "lr", "lr_warmup_iters", "bf16"),
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "recompute_granularity"),
    *("save_interval", "eval_interval"),
}
"""The twenty flags that --help shows; --help_all shows every flag."""

_DESCRIPTION = """Supervised fine-tuning on pretokenized shards.

  megatron-train launch --nproc_per_node 4 --config demo_stage1 [--flag value ...]      check, then start torchrun
  torchrun --nproc_per_node 4 -m megatron_train --config my.yaml [--flag value ...]     train
  megatron-train evaluate --load CHECKPOINT --valid_data_path PREFIX                    evaluate a checkpoint
  megatron-train plan --config my.yaml --world_size 64                                  memory and time without GPUs
  megatron-train parity --config my.yaml                                                layout against one process"""


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line of the trainer: its settings, and the given flags that are not settings."""

    config: TrainConfig
    ignored: dict[str, str]
    """Given flags without effect: name -> why the flag has none."""
    claims: dict[str, str | None]
    """Given flags that describe the architecture, to compare with the model: name -> value; None if it takes none."""
    extra_tokens: tuple[str, ...] = ()
    """Tokens of --vocab_extra_ids_list. Training ignores them; `plan` adds them to the vocabulary rows."""


def build_parser(shows_all: bool = False) -> Parser:
    """Return the parser of the trainer: one flag for each field of TrainConfig, in its groups.

    The help text of a flag is the docstring of its field. With `shows_all`, the help text lists every flag
    (--help_all), otherwise only those in USUAL (--help). The parser also accepts the flags in NO_EFFECT and
    ARCHITECTURE, which the help text leaves out.
    """
    parser = Parser(
        prog="megatron-train",
        usage="%(prog)s [launch | evaluate | plan | parity] [--config NAME_OR_FILE] [--flag value ...]",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=38, width=140),
        description=_DESCRIPTION,
        epilog=None if shows_all else f"--help_all lists all {len(OWNER)} settings.",
        add_help=False,
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="NAME_OR_FILE",
        help="Shipped configuration or YAML file of settings; repeatable, and a later one overrides.",
    )
    for group, cls in GROUPS.items():
        section = parser.add_argument_group(group, (cls.__doc__ or "").strip() if shows_all else None)
        add_flags(section, cls, is_shown=lambda name: shows_all or name in USUAL)
    for name, (values, _) in {**NO_EFFECT, **ARCHITECTURE}.items():
        options: dict[str, Any] = {"metavar": "X"} if values else {"action": "store_const", "const": None}
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)
    return parser


def parse(arguments: Sequence[str]) -> CommandLine:
    """Parse the words of a command line, read the YAML files that --config names, and return the result.

    A later file overrides an earlier one, and flags override files. Raises ConfigError for an unknown flag or setting
    and for a value of a wrong type. `validate` then checks the values.
    """
    parser = build_parser()
    known = {action.dest for action in parser._actions}
    for word in arguments:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name in FOREIGN_FLAGS and name not in known:
            raise ConfigError(f"unknown flag --{name}: {FOREIGN_FLAGS[name]}")
    given = parser.parse(arguments)
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
    """Return the TrainConfig with `settings`, name -> value. All other settings have their defaults.

    Every name must be that of a setting. Raises ConfigError that lists each value of a wrong type; `source` is the name
    of the file or command line in its message.
    """
    problems, groups = [], {}
    for group, cls in GROUPS.items():
        own = {name: _as_tuple(cls, name, value) for name, value in settings.items() if OWNER[name] == group}
        try:
            groups[group] = from_mapping(cls, own, source)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return TrainConfig(**groups)


def config_to_yaml(config: TrainConfig) -> str:
    """Return the config as flat YAML text, from which `config_from_settings` restores it.

    Every checkpoint of a training run holds this text as train_config.yaml.
    """
    flat = {
        field.name: getattr(getattr(config, group), field.name)
        for group, cls in GROUPS.items()
        for field in fields(cls)
    }
    return yaml.safe_dump(
        {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}, sort_keys=False
    )


def config_table(config: TrainConfig) -> str:
    """Return all settings as a text for the console, with a few lines for each group."""
    lines = []
    for group, cls in GROUPS.items():
        pairs = [f"{field.name}={_shown(getattr(getattr(config, group), field.name))}" for field in fields(cls)]
        lines.append(textwrap.fill(f"{group + ':':<13} {'  '.join(pairs)}", 140, subsequent_indent=" " * 14))
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "-" if isinstance(value, tuple) else "-" if value is None else str(value)


def _checked_names(mapping: dict[str, Any], file: str) -> dict[str, Any]:
    problems = [
        f"{file}: unknown setting {name!r}"
        + (f": {FOREIGN_FLAGS[name]}" if name in FOREIGN_FLAGS else suggest(name, OWNER))
        for name in mapping
        if name not in OWNER
    ]
    if problems:
        problems.append(f"valid settings: {', '.join(OWNER)}")
        raise ConfigError("\n".join(problems))
    return mapping


def _as_tuple(cls: type[Any], name: str, value: Any) -> Any:
    is_tuple = typing.get_origin(typing.get_type_hints(cls)[name]) is tuple
    if is_tuple and isinstance(value, (str, int, float)):
        return [str(value)]
    return value
