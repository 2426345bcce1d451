"""Read the next global batch in a thread while the current one is computed.

    with ReadAhead(read) as reader:
        batches = reader.take(rows, next_rows)      # [read(row) for row in rows]; the thread starts on next_rows

The result is the same as without the thread: `read` is a function of its argument alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Event, Thread
from types import TracebackType
from typing import Generic, TypeVar

Row = TypeVar("Row")
Batch = TypeVar("Batch")
LONGEST_WAIT = 5.0
"""Seconds that the end of a run waits for the micro-batch that the thread is reading."""


class ReadAhead(Generic[Row, Batch]):
    """Reads micro-batches with the function `read`, and the next ones in advance in a thread."""

    def __init__(self, read: Callable[[Row], Batch]) -> None:
        self._read = read
        self._ahead: _Reading[Row, Batch] | None = None

    def take(self, rows: Sequence[Row], next_rows: Sequence[Row] = ()) -> list[Batch]:
        """Return the micro-batch of each of `rows`, and let the thread start with `next_rows`.

        Rows that the thread has not read are read here. Raises the errors of `read`, also those of the thread.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.rows == list(rows):
            batches = ahead.result.result()
        else:
            batches = [self._read(row) for row in rows]
        if next_rows:
            self._ahead = _Reading(self._read, list(next_rows))
        return batches

    def __enter__(self) -> ReadAhead[Row, Batch]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread after the micro-batch that it is reading."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None


class _Reading(Generic[Row, Batch]):
    """One thread, which reads the micro-batches of `rows` into `result`."""

    def __init__(self, read: Callable[[Row], Batch], rows: list[Row]) -> None:
        self.rows = rows
        self.result: Future[list[Batch]] = Future()
        self._stopped = Event()
        # A daemon thread does not keep the process alive when `stop` is never called.
        self._thread = Thread(target=self._run, args=(read,), name="read ahead", daemon=True)
        self._thread.start()

    def _run(self, read: Callable[[Row], Batch]) -> None:
        batches = []
        try:
            for row in self.rows:
                if self._stopped.is_set():
                    return
                batches.append(read(row))
        except BaseException as error:  # `take` raises it
            self.result.set_exception(error)
        else:
            self.result.set_result(batches)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(LONGEST_WAIT)
