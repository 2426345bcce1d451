"""How a run tells what went wrong: one message on stderr, and where torchrun looks for it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def tell_failure(message: str) -> None:
    """Call it on one rank. torchrun repeats the message in its summary in place of a hint at tracebacks."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    record_failure(message)


def record_failure(message: str) -> None:
    """For torchrun alone; every rank that fails may call it."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
