"""Exact duplicates: documents with the same tokens, inside a split and across train and val.

Candidates are found by their keys (CRC-32 and length) and then told apart by a cryptographic digest of their tokens.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretokenizer.selection.document_table import DocumentTable
from pretokenizer.selection.select_documents import Selected
from pretokenizer.selection.token_store import TokenStore, batches

MAX_EXAMPLES = 10


class Places(NamedTuple):
    """Documents in the written order, (D,) each."""

    selected: NDArray[np.int64]
    """Which Selected."""
    positions: NDArray[np.int64]
    """Which of its documents: into `Selected.processed`."""

    def of(self, documents: NDArray[np.integer]) -> "Places":
        """Some of them."""
        return Places(self.selected[documents], self.positions[documents])


@dataclass(frozen=True)
class DuplicateReport:
    """Figures for the reports and the manifest."""

    train: int
    """Documents of train that occur earlier in train."""
    val: int
    """Documents of val that occur earlier in val."""
    leaked: int
    """Documents of val that occur in train."""
    removed: int
    """Documents left out because of it (`--dedup exact`)."""
    examples: list[dict[str, object]]
    """Of leaked documents: where both stand."""


def handle_duplicates(
    splits: dict[str, list[Selected]], store: TokenStore, remove: bool
) -> tuple[dict[str, list[Selected]], DuplicateReport]:
    """Count duplicates; with `remove`, keep only the first of equal documents, train before val."""
    everything = [*splits["train"], *splits["val"]]
    num_train = len(splits["train"])
    firsts, copies = _copies(everything, store)
    is_val = copies.selected >= num_train
    is_leak = is_val & (firsts.selected < num_train)
    examples: list[dict[str, object]] = [
        {"val": _describe(everything, copies, i), "train": _describe(everything, firsts, i)}
        for i in np.flatnonzero(is_leak)[:MAX_EXAMPLES].tolist()
    ]
    if remove:
        hits = [np.zeros(selected.processed.size, dtype=bool) for selected in everything]
        for number, hit in enumerate(hits):
            hit[copies.positions[copies.selected == number]] = True
        everything = [selected.leave_out(hit, "duplicate") for selected, hit in zip(everything, hits, strict=True)]
    train, val, leaked = (int(which.sum()) for which in (~is_val, is_val & ~is_leak, is_leak))
    report = DuplicateReport(train, val, leaked, copies.selected.size if remove else 0, examples)
    return {"train": everything[:num_train], "val": everything[num_train:]}, report


def _copies(everything: list[Selected], store: TokenStore) -> tuple[Places, Places]:
    """(first occurrences, later copies) of equal accepted documents, in writing order of the copies."""
    keys = np.concatenate([*(s.table.keys[s.documents] for s in everything), np.empty(0, dtype=np.uint64)])
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(np.diff(keys[order]) == 0)
    shared = np.union1d(order[same], order[same + 1])
    del keys, order  # of tens of millions of documents every column counts
    ends = np.cumsum([s.documents.size for s in everything], dtype=np.int64)
    owners = np.searchsorted(ends, shared, side="right")
    within = [shared[owners == i] - (ends[i] - s.documents.size) for i, s in enumerate(everything)]
    positions = [np.flatnonzero(s.accepted)[own] for s, own in zip(everything, within, strict=True)]
    candidates = Places(owners, np.concatenate([*positions, np.empty(0, dtype=np.int64)]))
    digests = b"".join(
        digest
        for s, own in zip(everything, positions, strict=True)
        for digest in _digests(s.table, s.processed[own], store)
    )
    words = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort(words.T)  # stable: equal documents stay in writing order
    is_first = np.append(True, (words[order][1:] != words[order][:-1]).any(axis=1))[: order.size]
    first_of = order[np.flatnonzero(is_first)][np.cumsum(is_first) - 1]
    copies, firsts = order[~is_first], first_of[~is_first]
    written = np.argsort(copies)
    return candidates.of(firsts[written]), candidates.of(copies[written])


def _digests(table: DocumentTable, documents: NDArray[np.int64], store: TokenStore) -> Iterator[bytes]:
    """A digest of each document's tokens."""
    for batch in batches(documents, table.sizes):
        raw = memoryview(store.gather(table, batch)).cast("B")  # type: ignore[arg-type]
        ends = (np.cumsum(table.sizes[batch], dtype=np.int64) * store.dtype.itemsize).tolist()
        for start, end in itertools.pairwise([0, *ends]):
            yield hashlib.blake2b(raw[start:end], digest_size=16).digest()


def _describe(everything: list[Selected], places: Places, number: int) -> dict[str, object]:
    selected = everything[int(places.selected[number])]
    document = selected.processed[places.positions[number : number + 1]]
    file_number, row = selected.table.origins_of(document)[0].tolist()
    return {"dataset": selected.name, "file": file_number, "record": row + 1}
