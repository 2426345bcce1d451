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
    """Where D documents are in the selection: in which data set of which split, and at which position there."""

    selected: NDArray[np.int64]
    """(D,) index of the Selected that holds each document, counted over train and then val."""
    positions: NDArray[np.int64]
    """(D,) index of each document in `processed` of its Selected."""

    def of(self, documents: NDArray[np.integer]) -> "Places":
        """Return the places of those documents whose indices (from 0 to D - 1) are given."""
        return Places(self.selected[documents], self.positions[documents])


@dataclass(frozen=True)
class Origin:
    """The record that a document comes from, given by its data set, its file and its number in the file."""

    dataset: str
    file: int
    """Index of the file among the data set's files."""
    record: int
    """Number of the record in its file, from 1."""

    def __str__(self) -> str:
        return f"{self.dataset} file {self.file} record {self.record}"


@dataclass(frozen=True)
class DuplicateReport:
    """Numbers of exact duplicates in train and val, for the reports and the manifest."""

    train: int
    """Number of documents of train with an equal earlier document in train."""
    val: int
    """Number of documents of val with an equal earlier document in val, and none in train."""
    leaked: int
    """Number of documents of val with an equal document in train."""
    removed: int
    """Number of duplicates that `--dedup exact` left out."""
    examples: list[dict[str, "Origin"]]
    """The first leaked documents, each with the origins of its two copies: {"val": ..., "train": ...}."""


def handle_duplicates(
    splits: dict[str, list[Selected]], store: TokenStore, remove: bool
) -> tuple[dict[str, list[Selected]], DuplicateReport]:
    """Count the exact duplicates, and return (selection of each split, report).

    `splits` has the documents selected from each data set, by split. With `remove`, the new selection keeps only the
    first of several equal documents, where train comes before val. Otherwise the selection is unchanged.
    """
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
        everything = [
            selected.leave_out(_hits(selected, copies.positions[copies.selected == number]), "duplicate")
            for number, selected in enumerate(everything)
        ]
    train, val, leaked = (int(which.sum()) for which in (~is_val, is_val & ~is_leak, is_leak))
    report = DuplicateReport(train, val, leaked, copies.selected.size if remove else 0, examples)
    return {"train": everything[:num_train], "val": everything[num_train:]}, report


def _hits(selected: Selected, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask over `selected.processed` that is true for the documents at `positions`.

    It is also true where a `fraction` above 1 repeats one of these documents.
    """
    if selected.fraction > 1:
        return np.isin(selected.processed, selected.processed[positions])
    hit = np.zeros(selected.processed.size, dtype=bool)
    hit[positions] = True
    return hit


def _first_positions(selected: Selected) -> NDArray[np.int64]:
    """Return the positions in `selected.processed` of the documents that are not left out.

    A document that a `fraction` above 1 repeats has only its first position here.
    """
    positions = np.flatnonzero(selected.accepted)
    if selected.fraction > 1:
        _, first = np.unique(selected.processed[positions], return_index=True)
        positions = positions[np.sort(first)]
    return positions


def _copies(everything: list[Selected], store: TokenStore) -> tuple[Places, Places]:
    """Find all accepted documents that equal an earlier one, and return (firsts, copies) in the order of writing.

    `copies` holds the places of these documents; `firsts` holds, for each, the place of the first equal document.
    """
    own_positions = [_first_positions(s) for s in everything]
    own_keys = (s.table.keys[s.processed[own]] for s, own in zip(everything, own_positions, strict=True))
    keys = np.concatenate([*own_keys, np.empty(0, dtype=np.uint64)])
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(np.diff(keys[order]) == 0)
    shared = np.union1d(order[same], order[same + 1])
    del keys, order  # with tens of millions of documents, every column takes much memory
    ends = np.cumsum([own.size for own in own_positions], dtype=np.int64)
    owners = np.searchsorted(ends, shared, side="right")
    within = [shared[owners == i] - (ends[i] - own.size) for i, own in enumerate(own_positions)]
    positions = [own[chosen] for own, chosen in zip(own_positions, within, strict=True)]
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
    """Yield a 16-byte BLAKE2b digest of the tokens of each document."""
    for batch in batches(documents, table.sizes):
        raw = memoryview(store.gather(table, batch)).cast("B")  # type: ignore[arg-type]
        ends = (np.cumsum(table.sizes[batch], dtype=np.int64) * store.dtype.itemsize).tolist()
        for start, end in itertools.pairwise([0, *ends]):
            yield hashlib.blake2b(raw[start:end], digest_size=16).digest()


def _origin(everything: list[Selected], places: Places, number: int) -> Origin:
    selected = everything[int(places.selected[number])]
    return origin_of(selected, selected.processed[places.positions[number : number + 1]])


def origin_of(selected: Selected, document: NDArray[np.int64]) -> Origin:
    """Return the origin of one document. `document` (1,) holds its index in the table of `selected`."""
    file_number, row = selected.table.origins_of(document)[0].tolist()
    return Origin(selected.name, file_number, row + 1)
