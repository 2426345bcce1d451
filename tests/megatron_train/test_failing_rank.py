"""A failing rank reports its error before it ends, and ends without a collective, because others may be waiting."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from megatron_train.__main__ import set_cuda_defaults
from tests.paths import ROOT

ERRORS = {
    "user error": "ValueError('d-text.idx: no such shard')",
    "error in the program": "RuntimeError('CUDA error: out of memory')",
    "lost rank": "RuntimeError('NCCL error: remote process exited or there was a network error')",
}


def test_cuda_defaults_leave_the_users_settings_alone() -> None:
    fresh: dict[str, str] = {}
    set_cuda_defaults(fresh)
    assert fresh == {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    own = {"CUDA_DEVICE_MAX_CONNECTIONS": "32", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}
    kept = dict(own)
    set_cuda_defaults(kept)
    assert kept == own


@pytest.fixture(scope="module")
def endings() -> dict[str, tuple[str, int, float]]:
    """Return the stderr, the exit code and the seconds from message to end of a rank that raises one of ERRORS."""
    words = [sys.executable, "-W", "ignore", "-m", "tests.megatron_train.failing_ranks", *ERRORS.values()]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(zip(ERRORS, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_a_user_error_is_one_line_and_the_process_ends_at_once(endings: dict[str, tuple[str, int, float]]) -> None:
    text, code, seconds = endings["user error"]
    assert text == "error: rank 1: d-text.idx: no such shard\n"
    assert code == 1
    assert seconds < 5


def test_an_error_in_the_program_is_a_traceback_and_the_process_ends_at_once(
    endings: dict[str, tuple[str, int, float]],
) -> None:
    text, code, seconds = endings["error in the program"]
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("RuntimeError: CUDA error: out of memory\n")
    assert code == 1
    assert seconds < 5


def test_nccls_words_for_a_lost_rank_are_known(endings: dict[str, tuple[str, int, float]]) -> None:
    text, code, _ = endings["lost rank"]
    assert text == "warning: rank 1 lost its connection to another rank, whose own message says why\n"
    assert code == 1
