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

from pretokenizer.document_table import DocumentTable
from pretokenizer.selection import Selected
from pretokenizer.token_store import TokenStore, batches

MAX_EXAMPLES = 10


class Place(NamedTuple):
    """A document in the written order: which Selected, which of its documents."""

    selected: int
    position: int
    """Into `Selected.processed`."""


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
    copies = list(_copies(everything, store))
    counts = {"train": 0, "val": 0, "leaked": 0}
    hits = [np.zeros(selected.processed.size, dtype=bool) for selected in everything]
    examples: list[dict[str, object]] = []
    for first, copy in copies:
        hits[copy.selected][copy.position] = True
        is_leak = first.selected < num_train <= copy.selected
        counts["leaked" if is_leak else "val" if copy.selected >= num_train else "train"] += 1
        if is_leak and len(examples) < MAX_EXAMPLES:
            examples.append({"val": _describe(everything, copy), "train": _describe(everything, first)})
    if remove:
        everything = [selected.leave_out(hit, "duplicate") for selected, hit in zip(everything, hits, strict=True)]
    report = DuplicateReport(counts["train"], counts["val"], counts["leaked"], len(copies) if remove else 0, examples)
    return {"train": everything[:num_train], "val": everything[num_train:]}, report


def _copies(everything: list[Selected], store: TokenStore) -> Iterator[tuple[Place, Place]]:
    """(first occurrence, later copy) of equal accepted documents, in writing order of the copies."""
    owners = np.concatenate([np.full(int(s.accepted.sum()), i) for i, s in enumerate(everything)] or [np.empty(0, int)])
    positions = np.concatenate([np.flatnonzero(s.accepted) for s in everything] or [np.empty(0, int)])
    keys: NDArray[np.uint64] = np.concatenate(
        [s.table.keys[s.documents] for s in everything] or [np.empty(0, np.uint64)]
    )
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    is_candidate = np.zeros(keys.size, dtype=bool)
    is_candidate[order[1:][same]] = is_candidate[order[:-1][same]] = True
    firsts: dict[bytes, Place] = {}
    for number, selected in enumerate(everything):
        own = positions[is_candidate & (owners == number)]
        digests = _digests(selected.table, selected.processed[own], store)
        for position, digest in zip(own.tolist(), digests, strict=True):
            place = Place(number, position)
            first = firsts.setdefault(digest, place)
            if first is not place:
                yield first, place


def _digests(table: DocumentTable, documents: NDArray[np.int64], store: TokenStore) -> Iterator[bytes]:
    """A digest of each document's tokens."""
    for batch in batches(documents, table.sizes):
        raw = memoryview(store.gather(table, batch)).cast("B")  # type: ignore[arg-type]
        ends = (np.cumsum(table.sizes[batch], dtype=np.int64) * store.dtype.itemsize).tolist()
        for start, end in itertools.pairwise([0, *ends]):
            yield hashlib.blake2b(raw[start:end], digest_size=16).digest()


def _describe(everything: list[Selected], place: Place) -> dict[str, object]:
    selected = everything[place.selected]
    document = selected.processed[place.position : place.position + 1]
    file_number, row = selected.table.origins_of(document)[0].tolist()
    return {"dataset": selected.name, "file": file_number, "record": row + 1}
