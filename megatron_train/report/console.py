"""Print a run's lines and warnings on rank 0, and the one message that says why the run failed.

This module imports neither torch nor any other module of the package, so every module may use it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def is_printing_rank() -> bool:
    """Return whether this process is rank 0 of its launch, or a process without a launcher."""
    return os.environ.get("RANK", "0") == "0"


def say(*words: Any) -> None:
    """Print the words as one line, without buffering, on rank 0 only."""
    if is_printing_rank():
        print(*words, flush=True)


def warn(message: str) -> None:
    """Print the message as a warning on stderr, in one line, on rank 0 only."""
    if is_printing_rank():
        print(f"warning: {message}", file=sys.stderr, flush=True)


def tell_failure(message: str) -> None:
    """Print the error that ends the run on stderr, and record it for torchrun. Exactly one rank calls this function."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    record_failure(message)


def record_failure(message: str) -> None:
    """Write the reason why this rank failed to the file from which torchrun reports errors.

    Every failing rank may call this function. Without torchrun, it does nothing.
    """
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
