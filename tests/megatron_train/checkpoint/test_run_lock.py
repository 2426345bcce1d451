from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from megatron_train.checkpoint.folder import CheckpointError
from megatron_train.checkpoint.run_lock import run_lock


def test_a_second_run_is_refused_by_host_and_process(tmp_path: Path, one_rank: None) -> None:
    save = str(tmp_path / "save")
    with run_lock(save):
        expected = f"save: process {os.getpid()} on host {socket.gethostname()} is training into it"
        with pytest.raises(CheckpointError, match=expected), run_lock(save):
            pytest.fail("the second run started")
    with run_lock(save), run_lock(None):
        pass
