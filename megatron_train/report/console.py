"""What a run prints: lines and warnings from rank 0, and the one message that says why it failed.

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
    """Print on rank 0 only, without buffering."""
    if is_printing_rank():
        print(*words, flush=True)


def warn(message: str) -> None:
    """Print one line on stderr, on rank 0 only."""
    if is_printing_rank():
        print(f"warning: {message}", file=sys.stderr, flush=True)


def tell_failure(message: str) -> None:
    """Print the message that ends the run, and record it for torchrun. Exactly one rank calls this function."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    record_failure(message)


def record_failure(message: str) -> None:
    """Record why this rank failed, and torchrun shows it in its summary. Every failing rank may call this."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
