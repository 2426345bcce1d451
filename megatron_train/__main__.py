"""Command line: `torchrun ... -m megatron_train [flags]` trains; `python -m megatron_train plan [flags]` plans without
GPUs.

Exit codes: 0 done, 2 a setting is wrong, 1 a file is.
"""

from __future__ import annotations

import os
import sys

from megatron_train.config.flags import build_parser, parse
from megatron_train.report.console import record_failure, tell_failure
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.publish import forbid_world_writable

LOST_PEER = ("closed by peer", "reset by peer", "Connection was likely closed", "Broken pipe")
"""What gloo says when another rank has gone: it failed, or was killed."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code; one line per problem on stderr, from rank 0 only, and no traceback for what a user can
    mend.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    forbid_world_writable()
    planning = arguments[:1] == ["plan"]
    if not planning and ("--help" in arguments or "-h" in arguments):
        build_parser().print_help()
        return 0
    try:
        if planning:
            from megatron_train.planning.command import main as plan

            return plan(arguments[1:])
        return _train(parse(arguments))
    except (ValueError, OSError) as error:
        if os.environ.get("OASST_MEGATRON_TRACEBACK"):
            raise
        rank = os.environ.get("RANK", "0")
        if rank == "0":
            tell_failure(str(error))
        elif "TORCHELASTIC_ERROR_FILE" in os.environ:
            record_failure(str(error))  # torchrun shows it
        else:
            print(f"error: rank {rank}: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, ConfigError) else 1
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST_PEER):
            raise
        message = f"rank {os.environ.get('RANK', '0')} lost its connection to another rank, whose own message says why"
        print(f"warning: {message}", file=sys.stderr, flush=True)
        record_failure(message)
        return 1


def _train(command: object) -> int:
    from megatron_train.parallel.device import install, quiet_known_warnings

    quiet_known_warnings()
    install()
    from megatron_train.config.flags import CommandLine
    from megatron_train.parallel.distributed import shutdown
    from megatron_train.train import train

    assert isinstance(command, CommandLine)
    try:
        return train(command)
    finally:
        shutdown()


if __name__ == "__main__":
    sys.exit(main())
