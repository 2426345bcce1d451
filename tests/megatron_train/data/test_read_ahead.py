"""The next rows are read in a thread, with the results, the errors and the end of reading them here."""

from __future__ import annotations

import threading
import time

import pytest

from megatron_train.data.read_ahead import ReadAhead
from pretokenizer.files.shard import ShardError

HERE = threading.main_thread().name


class Source:
    """Reads a number as its square, and notes the name of the thread."""

    def __init__(self) -> None:
        self.read_by: dict[int, str] = {}

    def __call__(self, row: int) -> int:
        assert row not in self.read_by
        self.read_by[row] = threading.current_thread().name
        return row * row


def test_the_next_rows_are_read_in_the_thread() -> None:
    source = Source()
    with ReadAhead(source) as reader:
        assert reader.take([1, 2], [3, 4]) == [1, 4]
        assert reader.take([3, 4], [5]) == [9, 16]
        assert reader.take([5]) == [25]
        assert source.read_by == {1: HERE, 2: HERE, 3: "read ahead", 4: "read ahead", 5: "read ahead"}


def test_other_rows_than_those_announced_are_read_here() -> None:
    source = Source()
    with ReadAhead(source) as reader:
        reader.take([1], [2])
        assert reader.take([7]) == [49]
        assert source.read_by[7] == HERE


def test_reading_overlaps_with_what_the_caller_does() -> None:
    in_thread = threading.Event()

    def read(row: int) -> int:
        if row == 2:
            in_thread.set()
        return row

    with ReadAhead(read) as reader:
        reader.take([1], [2])
        assert in_thread.wait(10)
        assert reader.take([2]) == [2]


def test_an_error_of_the_thread_is_raised_by_the_take_that_needs_its_rows() -> None:
    def read(row: int) -> int:
        if row == 2:
            raise ShardError("p-text.bin: cut at byte 16")
        return row

    with ReadAhead(read) as reader:
        assert reader.take([1], [2]) == [1]
        with pytest.raises(ShardError, match=r"^p-text.bin: cut at byte 16$"):
            reader.take([2])


def test_leaving_waits_for_the_micro_batch_in_progress_and_for_no_other() -> None:
    started, read_rows = threading.Event(), []

    def read(row: int) -> int:
        read_rows.append(row)
        if row:
            started.set()
            time.sleep(0.2)
        return row

    with ReadAhead(read) as reader:
        reader.take([0], range(1, 1000))
        assert started.wait(10)
        before = time.monotonic()
    assert time.monotonic() - before < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "read ahead"]
    assert read_rows == [0, 1]
