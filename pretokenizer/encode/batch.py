"""What encoding gives: a batch of documents as flat arrays."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.rendered import Rendered

PROOF_INTERVAL = 512
"""One document in so many is also encoded by the reference."""
NOTES = ("replies_compared", "replies_changed", "messages_dropped")
"""Counts of `Rendered` that a batch adds up."""


class EncodedBatch(NamedTuple):
    """N documents with T turns in all, joined. A turn is a run of tokens of one role."""

    tokens: NDArray[np.integer]
    """Ids of all documents joined."""
    document_sizes: NDArray[np.int64]
    """(N,) tokens of each document."""
    turn_counts: NDArray[np.int64]
    """(N,) turns of each document, at least one."""
    turn_sizes: NDArray[np.int64]
    """(T,) tokens of each turn."""
    turn_roles: NDArray[np.uint8]
    """(T,) role of each turn."""
    control_counts: NDArray[np.int64]
    """(N,) control tokens spelled inside messages."""
    texts: list[str] | None = None
    """The rendered documents, if they were asked for."""
    notes: Counter[str] = Counter()  # noqa: RUF012 - never changed
    """What the chat format did to the conversations, by names of NOTES."""


class EngineMismatchError(Exception):
    """The fast engine gave other ids than the reference for `document`."""


def notes_of(documents: Iterable[Rendered]) -> Counter[str]:
    """Return the sums of the documents' counts."""
    notes: Counter[str] = Counter()
    for document in documents:
        if document.replies_compared or document.messages_dropped:
            for name in NOTES:
                notes[name] += getattr(document, name)
    return notes


def ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the numbers starts[i] .. starts[i] + counts[i] - 1 of each i, joined.

    >>> ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(counts, dtype=np.int64)
    return np.arange(int(ends[-1]) if ends.size else 0) + np.repeat(starts - (ends - counts), counts)
