"""Command line: `torchrun ... -m megatron_train [flags]` trains; `python -m megatron_train plan [flags]` plans without
GPUs.

Exit codes: 0 done, 2 a setting is wrong, 1 a file is.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from megatron_train.command_line import build_parser, parse
from pretokenizer.yaml_config import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code; one line per problem on stderr, from rank 0 only, and no traceback for what a user can
    mend.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    planning = arguments[:1] == ["plan"]
    if not planning and ("--help" in arguments or "-h" in arguments):
        build_parser().print_help()
        return 0
    try:
        if planning:
            from megatron_train.planner import main as plan

            return plan(arguments[1:])
        return _train(parse(arguments))
    except (ValueError, OSError) as error:
        if os.environ.get("OASST_MEGATRON_TRACEBACK"):
            raise
        _report(str(error))
        return 2 if isinstance(error, ConfigError) else 1


def _report(message: str) -> None:
    """One message on stderr from rank 0; torchrun repeats it in its summary in place of a hint at tracebacks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        reply = {
            "message": {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
        }
        Path(path).write_text(json.dumps(reply))


def _train(command: object) -> int:
    from megatron_train.parallel.device import install, quiet_known_warnings

    quiet_known_warnings()
    install()
    from megatron_train.command_line import CommandLine
    from megatron_train.parallel.distributed import shutdown
    from megatron_train.train import train

    assert isinstance(command, CommandLine)
    try:
        return train(command)
    finally:
        shutdown()


if __name__ == "__main__":
    sys.exit(main())
