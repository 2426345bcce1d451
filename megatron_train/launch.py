"""The command `launch`: check the settings and files of a run, then start its ranks with torchrun.

    megatron-train launch --nproc_per_node 4 --config demo_stage1 [--flag value ...]
    megatron-train launch --nproc_per_node 8 --nnodes 2 --node_rank 0 --master_addr HOST --master_port 29500 ...

A wrong setting ends the command with one message before any rank starts. When a rank fails, the command prints the
message of that rank and leaves out torchrun's own report.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from megatron_train.config.flags import CommandLine, parse
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.validate import validate, validate_model
from pretokenizer.config.flags import Parser
from pretokenizer.config.yaml_config import ConfigError

TORCHRUN_FLAGS = ("node_rank", "master_addr", "master_port", "rdzv_backend", "rdzv_endpoint", "rdzv_id", "max_restarts")
"""Flags of `launch` that are passed to torchrun unchanged."""


def main(arguments: Sequence[str]) -> int:
    """Check the settings and files, start the ranks, and return the exit code of the run.

    `arguments` are the words that follow `launch`. Raises ConfigError, CheckpointError or ShardError before any rank
    starts.
    """
    own, rest = launch_parser().parse_known_args(list(arguments))
    if own.nproc_per_node < 1 or own.nnodes < 1:
        raise ConfigError("--nproc_per_node and --nnodes must be at least 1")
    is_training = rest[:1] != ["evaluate"]
    command = parse(rest if is_training else rest[1:])
    check(command, own.nproc_per_node * own.nnodes, is_training)
    flags = {"nproc_per_node": own.nproc_per_node, "nnodes": own.nnodes}
    flags |= {name: value for name in TORCHRUN_FLAGS if (value := getattr(own, name)) is not None}
    words = [f"--{name}={value}" for name, value in flags.items()]
    return start_ranks([*words, "-m", "megatron_train", *rest], command.config.logging.exit_code_on_signal)


def launch_parser() -> Parser:
    """Return the parser of the flags that `launch` takes in addition to the flags of training."""
    parser = Parser(prog="megatron-train launch", usage="%(prog)s --nproc_per_node N [flags of training]")
    parser.add_argument("--nproc_per_node", type=int, required=True, metavar="N", help="ranks on this machine")
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="machines [1]")
    for name in TORCHRUN_FLAGS:
        parser.add_argument(f"--{name}", metavar="X", help="as in torchrun")
    return parser


def check(command: CommandLine, num_ranks: int, is_training: bool) -> None:
    """Check that settings and model fit `num_ranks` ranks, and that the named checkpoint and shards can be opened.

    `is_training` is false for the command `evaluate`, which needs no training data. Raises ConfigError, CheckpointError
    or ShardError.
    """
    from megatron_train.parallel.device import quiet_known_warnings

    quiet_known_warnings()
    from megatron_train.checkpoint.resume import candidates, load_model_config
    from megatron_train.data.document_set import DocumentSet
    from megatron_train.preflight import shard_prefixes

    config = command.config
    layout = ParallelLayout.planned(config.parallel, num_ranks)
    validate(command, layout, is_training)
    start = next(candidates(config), None)
    validate_model(command, load_model_config(config, start.folder if start else None), layout)
    DocumentSet(shard_prefixes(config.data))


def start_ranks(arguments: list[str], exit_code_on_signal: int) -> int:
    """Run torchrun with `arguments`, its command-line words, and return the exit code of the run.

    When a rank fails, the message of the first failed rank is on stderr, and the exit code is that of this rank.
    Returns `exit_code_on_signal` when a signal stops the run.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):  # torchrun repeats in 30 lines what the rank says in one
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if rank != 0 or failure.exitcode < 0:  # rank 0 has printed its message, unless a signal killed it
            message: Any = failure.message
            text = message["message"] if isinstance(message, dict) else message
            print(f"error: rank {rank}: {text}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException:  # the ranks have saved and stopped
        return exit_code_on_signal
    return 0
