"""The result of encoding: a batch of documents as flat arrays."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.rendered import Rendered

PROOF_INTERVAL = 512
"""One document in this many is also encoded by the reference tokenizer, to check the fast engine."""
NOTES = ("replies_compared", "replies_skipped", "replies_changed", "messages_dropped")
"""Names of the counts of `Rendered` that are summed over a batch."""


class EncodedBatch(NamedTuple):
    """N encoded documents with T turns in total, in flat arrays. A turn is a run of tokens of one role."""

    tokens: NDArray[np.integer]
    """Token ids of all documents, joined in order."""
    document_sizes: NDArray[np.int64]
    """(N,) number of tokens of each document."""
    turn_counts: NDArray[np.int64]
    """(N,) number of turns of each document, at least one."""
    turn_sizes: NDArray[np.int64]
    """(T,) number of tokens of each turn."""
    turn_roles: NDArray[np.uint8]
    """(T,) role id of each turn."""
    control_counts: NDArray[np.int64]
    """(N,) number of control tokens spelled inside the messages of each document."""
    straddling_counts: NDArray[np.int64]
    """(N,) number of tokens in each document that get no loss although some of their characters have loss."""
    texts: list[str] | None = None
    """The text of each document; None unless the encoder keeps texts."""
    notes: Counter[str] = Counter()  # noqa: RUF012 - never changed
    """Sums of the counts of NOTES over the batch's documents, by name."""


class EngineMismatchError(Exception):
    """Raised when the fast engine's token ids differ from the reference tokenizer's. The message shows the text."""


def notes_of(documents: Iterable[Rendered]) -> Counter[str]:
    """Return the sums, over rendered documents, of the counts that NOTES names, such as `replies_changed`."""
    notes: Counter[str] = Counter()
    for document in documents:
        if document.replies_compared or document.messages_dropped:
            for name in NOTES:
                notes[name] += getattr(document, name)
    return notes


def ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the integers from starts[i] to starts[i] + counts[i] - 1 for every i, joined in order.

    >>> ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(counts, dtype=np.int64)
    return np.arange(int(ends[-1]) if ends.size else 0) + np.repeat(starts - (ends - counts), counts)
