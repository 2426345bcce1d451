"""Count near-duplicates: documents that share most of their runs of tokens with an earlier document.

Each document is a set of runs of 5 consecutive tokens. MinHash signatures (`pip install 'oasst-megatron[neardup]'`)
estimate the Jaccard similarity of two sets. A signature has 64 slots in 16 bands of 4; only documents that agree in a
whole band are compared.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretokenizer.selection.duplicates import MAX_EXAMPLES, Origin, origin_of
from pretokenizer.selection.select_documents import Selected
from pretokenizer.selection.token_store import TokenStore, batches
from pretokenizer.tasks.plan import BuildError

SIMILARITY = 0.8
"""Minimum estimated Jaccard similarity (share of common runs) of two near-duplicates."""
NUM_SLOTS = 64
SLOTS_PER_BAND = 4
RUN_TOKENS = 5
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class NearDuplicateReport:
    """Numbers of documents that nearly equal an earlier document; exact duplicates are included."""

    train: int
    """Number of documents of train that nearly equal an earlier document of train."""
    leaked: int
    """Number of documents of val that nearly equal a document of train."""
    examples: list[dict[str, Origin]]
    """For the first near-duplicates, the origins of both documents: {"document": ..., "resembles": ...}."""


def count_near_duplicates(splits: dict[str, list[Selected]], store: TokenStore) -> NearDuplicateReport:
    """Return the numbers of near-duplicates in train and val. A document that is written several times counts once.

    `splits` has the documents selected from each data set, by split. Raises BuildError when the library for MinHash
    signatures is not installed.
    """
    everything = [*splits["train"], *splits["val"]]
    unique = [np.sort(np.unique(selected.documents)) for selected in everything]
    owner = np.repeat(np.arange(len(everything)), [own.size for own in unique])
    documents = np.concatenate([np.empty(0, np.int64), *unique])
    signatures = np.concatenate(
        [_signatures(selected, own, store) for selected, own in zip(everything, unique, strict=True)]
    )
    is_val = owner >= len(splits["train"])
    earlier = earlier_similar(signatures, int((~is_val).sum()))
    found = np.flatnonzero(earlier >= 0)
    in_train = found[~is_val[found]]
    leaked = found[is_val[found] & ~is_val[earlier[found]]]

    def origin(number: int) -> Origin:
        return origin_of(everything[int(owner[number])], documents[number : number + 1])

    examples = [
        {"document": origin(number), "resembles": origin(int(earlier[number]))}
        for number in np.concatenate([leaked, in_train])[:MAX_EXAMPLES].tolist()
    ]
    return NearDuplicateReport(in_train.size, leaked.size, examples)


def earlier_similar(signatures: NDArray[np.uint32], num_train: int) -> NDArray[np.int64]:
    """Return (N,): for each row of `signatures` (N, NUM_SLOTS), the index of an earlier similar row, or -1 for none.

    The first `num_train` rows are those of train. A row that resembles rows of both splits gets one of train. Rows that
    agree in a band are compared only with the first of them, so some similar pairs may be missed.
    """
    earlier = np.full(len(signatures), -1, dtype=np.int64)
    for start in range(0, NUM_SLOTS, SLOTS_PER_BAND):
        band = np.ascontiguousarray(signatures[:, start : start + SLOTS_PER_BAND])
        _, first, group = np.unique(band, axis=0, return_index=True, return_inverse=True)
        leader = first[group.reshape(-1)]
        is_better = (earlier < 0) | ((earlier >= num_train) & (leader < num_train))
        rows = np.flatnonzero((leader < np.arange(len(signatures))) & is_better)
        agreement = (signatures[rows] == signatures[leader[rows]]).mean(axis=1)
        similar = rows[agreement >= SIMILARITY]
        earlier[similar] = leader[similar]
    return earlier


def _signatures(selected: Selected, documents: NDArray[np.int64], store: TokenStore) -> NDArray[np.uint32]:
    """Return (N, NUM_SLOTS): the MinHash signatures of N documents of `selected`."""
    try:
        from rensa import RMinHash
    except ImportError:
        raise BuildError("--near_duplicates needs the package rensa: pip install 'oasst-megatron[neardup]'") from None
    parts = [np.empty((0, NUM_SLOTS), dtype=np.uint32)]
    for batch in batches(documents, selected.table.sizes):
        hashes, counts = run_hashes(store.gather(selected.table, batch), selected.table.sizes[batch])
        offsets = np.append(0, np.cumsum(counts)).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, NUM_SLOTS, 42)
        parts.append(np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, NUM_SLOTS))
    return np.concatenate(parts)


def run_hashes(tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return (hash of every run of RUN_TOKENS consecutive tokens, number of runs of each of the N documents).

    `tokens` holds the documents joined, `sizes` (N,) their lengths. A document with fewer tokens is padded to one run.
    A run never crosses from one document to the next.
    """
    padded = np.maximum(sizes.astype(np.int64), RUN_TOKENS)
    flat = np.zeros(int(padded.sum()), dtype=np.uint64)
    starts, own_starts = np.cumsum(padded) - padded, np.cumsum(sizes, dtype=np.int64) - sizes
    flat[np.arange(tokens.size) + np.repeat(starts - own_starts, sizes)] = tokens.astype(np.uint64) + np.uint64(1)
    hashes = np.zeros(max(flat.size - RUN_TOKENS + 1, 0), dtype=np.uint64)
    for offset in range(RUN_TOKENS):
        hashes = (hashes + flat[offset : offset + hashes.size]) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    counts = padded - RUN_TOKENS + 1
    inside = np.arange(int(counts.sum())) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return hashes[inside], counts
