"""The command line of the trainer.

    torchrun ... -m megatron_train [flags]              train
    megatron-train launch --nproc_per_node N [flags]    check, then train with torchrun
    megatron-train evaluate --load CHECKPOINT [flags]   evaluate a checkpoint
    megatron-train plan [flags] --world_size N          plan memory and time without GPUs
    megatron-train parity [flags]                       compare a parallel layout with one process, on the CPU

Exit codes: 0 = done, 2 = a setting is wrong, 1 = any other error, or a layout that `parity` finds wrong.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import MutableMapping

from megatron_train.config.flags import CommandLine, build_parser, parse
from megatron_train.report.console import record_failure, tell_failure
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.publish import forbid_world_writable

LOST_PEER = (
    *("closed by peer", "reset by peer", "Connection was likely closed", "Broken pipe"),  # gloo
    *("remote process exited", "ncclRemoteError", "unhandled system error", "communicator was aborted"),  # NCCL
)
"""Phrases in the error messages of gloo and NCCL which show that another rank has failed or was killed."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command that `arguments` (default: the words after the program's name) give, and return its exit code.

    For problems that a user can fix, rank 0 prints one line on stderr and no traceback. Any other error is raised. A
    failing rank that is connected to other ranks ends its process at once instead of returning or raising, because an
    orderly shutdown could wait for them forever.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    forbid_world_writable()
    if not arguments or ({"--help", "-h"} & set(arguments) and arguments[0] not in ("plan", "launch", "parity")):
        build_parser().print_help()
        return 0
    if "--help_all" in arguments:
        build_parser(shows_all=True).print_help()
        return 0
    try:
        if arguments[0] == "plan":
            from megatron_train.planning.command import main as plan

            return plan(arguments[1:])
        if arguments[0] == "parity":
            from megatron_train.parallel.device import quiet_known_warnings

            quiet_known_warnings()
            from megatron_train.parity import main as parity

            return parity(arguments[1:])
        if arguments[0] == "launch":
            from megatron_train.launch import main as launch

            return launch(arguments[1:])
        if arguments[0] == "evaluate":
            return _on_device(parse(arguments[1:]), is_training=False)
        return _on_device(parse(arguments), is_training=True)
    except BaseException as error:
        code = _report(error)
        if _has_peers():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 1)
        if code is None:
            raise
        return code


def _report(error: BaseException) -> int | None:
    """Print why the run failed, and return the exit code.

    Return None for an unexpected error, whose traceback is shown instead of a one-line message.
    """
    rank = os.environ.get("RANK", "0")
    if isinstance(error, (ValueError, OSError)) and not os.environ.get("OASST_MEGATRON_TRACEBACK"):
        if rank == "0":
            tell_failure(str(error))
        elif "TORCHELASTIC_ERROR_FILE" in os.environ:
            record_failure(str(error))  # torchrun shows it
        else:
            print(f"error: rank {rank}: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, ConfigError) else 1
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER):
        message = f"rank {rank} lost its connection to another rank, whose own message says why"
        print(f"warning: {message}", file=sys.stderr, flush=True)
        record_failure(message)
        return 1
    if _has_peers() and not isinstance(error, SystemExit):
        traceback.print_exception(error)
        record_failure(f"rank {rank}: {type(error).__name__}: {error}")
    return None


def _has_peers() -> bool:
    """Return whether this process is connected to other ranks."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized() and distributed.get_world_size() > 1


def set_cuda_defaults(environment: MutableMapping[str, str]) -> None:
    """Set variables in `environment` that CUDA and torch's allocator read at their start, unless the user has set them.

    One hardware queue makes the collectives of tensor parallelism start before the computation that hides them.
    Expandable segments keep packed rows of many shapes from fragmenting the memory.
    """
    environment.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if "PYTORCH_CUDA_ALLOC_CONF" not in environment:
        environment.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def _on_device(command: CommandLine, is_training: bool) -> int:
    """Prepare the device of this process (GPU or CPU), train or evaluate on it, and return the exit code."""
    set_cuda_defaults(os.environ)
    from megatron_train.parallel.device import install, quiet_known_warnings

    quiet_known_warnings()
    install(command.config.parallel.device)
    from megatron_train.evaluate_checkpoint import evaluate_checkpoint
    from megatron_train.parallel.distributed import freeze_imports, shutdown
    from megatron_train.train import train

    freeze_imports()
    code = train(command) if is_training else evaluate_checkpoint(command)
    shutdown()  # after success only: on NCCL this waits for ranks that may be waiting for this one
    return code


if __name__ == "__main__":
    sys.exit(main())
