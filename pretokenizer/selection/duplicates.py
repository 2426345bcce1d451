"""Find exact duplicates: documents with the same tokens, inside a split and across train and val.

Documents with equal keys (CRC-32 and length) are candidates. A cryptographic digest of their tokens decides.
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
    """D documents in the order in which they are written."""

    selected: NDArray[np.int64]
    """(D,) index of the Selected that holds the document."""
    positions: NDArray[np.int64]
    """(D,) index of the document in `Selected.processed`."""

    def of(self, documents: NDArray[np.integer]) -> "Places":
        """Return the places of some of the documents."""
        return Places(self.selected[documents], self.positions[documents])


@dataclass(frozen=True)
class Origin:
    """The record that a document comes from."""

    dataset: str
    file: int
    """Index of the file among the data set's files."""
    record: int
    """Number of the record in its file, from 1."""

    def __str__(self) -> str:
        return f"{self.dataset} file {self.file} record {self.record}"


@dataclass(frozen=True)
class DuplicateReport:
    """Numbers of duplicates, for the reports and the manifest."""

    train: int
    """Number of documents of train that occur earlier in train."""
    val: int
    """Number of documents of val that occur earlier in val."""
    leaked: int
    """Number of documents of val that occur in train."""
    removed: int
    """Number of documents that `--dedup exact` left out."""
    examples: list[dict[str, "Origin"]]
    """For some leaked documents, the origin of each copy: {"val": ..., "train": ...}."""


def handle_duplicates(
    splits: dict[str, list[Selected]], store: TokenStore, remove: bool
) -> tuple[dict[str, list[Selected]], DuplicateReport]:
    """Count duplicates. With `remove`, keep only the first of equal documents; train comes before val."""
    everything = [*splits["train"], *splits["val"]]
    num_train = len(splits["train"])
    firsts, copies = _copies(everything, store)
    is_val = copies.selected >= num_train
    is_leak = is_val & (firsts.selected < num_train)
    examples = [
        {"val": _origin(everything, copies, i), "train": _origin(everything, firsts, i)}
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
    """Return (first occurrences, later copies) of equal accepted documents, in the order of the copies."""
    keys = np.concatenate([*(s.table.keys[s.documents] for s in everything), np.empty(0, dtype=np.uint64)])
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(np.diff(keys[order]) == 0)
    shared = np.union1d(order[same], order[same + 1])
    del keys, order  # with tens of millions of documents, every column takes much memory
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
    order = np.lexsort(words.T)  # stable: equal documents stay in order
    is_first = np.append(True, (words[order][1:] != words[order][:-1]).any(axis=1))[: order.size]
    first_of = order[np.flatnonzero(is_first)][np.cumsum(is_first) - 1]
    copies, firsts = order[~is_first], first_of[~is_first]
    written = np.argsort(copies)
    return candidates.of(firsts[written]), candidates.of(copies[written])


def _digests(table: DocumentTable, documents: NDArray[np.int64], store: TokenStore) -> Iterator[bytes]:
    """Yield a digest of the tokens of each document."""
    for batch in batches(documents, table.sizes):
        raw = memoryview(store.gather(table, batch)).cast("B")  # type: ignore[arg-type]
        ends = (np.cumsum(table.sizes[batch], dtype=np.int64) * store.dtype.itemsize).tolist()
        for start, end in itertools.pairwise([0, *ends]):
            yield hashlib.blake2b(raw[start:end], digest_size=16).digest()


def _origin(everything: list[Selected], places: Places, number: int) -> Origin:
    selected = everything[int(places.selected[number])]
    document = selected.processed[places.positions[number : number + 1]]
    file_number, row = selected.table.origins_of(document)[0].tolist()
    return Origin(selected.name, file_number, row + 1)
