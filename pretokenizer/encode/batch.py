"""What encoding gives: a batch of documents as flat arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PROOF_INTERVAL = 512
"""One document in so many is also encoded by the reference."""


class EncodedBatch(NamedTuple):
    """N documents with T turns in all; a document's turns follow one another, and so do its tokens."""

    tokens: NDArray[np.integer]
    """Ids of all documents joined."""
    document_sizes: NDArray[np.int64]
    """(N,) tokens of each."""
    turn_counts: NDArray[np.int64]
    """(N,) turns of each."""
    turn_sizes: NDArray[np.int64]
    """(T,) tokens of each turn, template tokens included."""
    turn_roles: NDArray[np.uint8]
    """(T,)"""
    control_counts: NDArray[np.int64]
    """(N,) control tokens spelled inside message text."""
    texts: list[str] | None = None
    """The rendered documents, where they were asked for."""


class EngineMismatchError(Exception):
    """The fast engine gave other ids than the reference for `document`."""


def ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """The numbers starts[i] .. starts[i] + counts[i] - 1 of each i, joined.

    >>> ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(counts, dtype=np.int64)
    return np.arange(int(ends[-1]) if ends.size else 0) + np.repeat(starts - (ends - counts), counts)
