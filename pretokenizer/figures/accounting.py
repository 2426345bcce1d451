"""Count the records of each data set by outcome: written to train, written to val, left out, or bad.

Each record read has exactly one outcome.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pretokenizer.selection.document_table import DocumentTable, Tables, part_headers
from pretokenizer.selection.select_documents import Selected

_NOT_DRAWN = {
    "train": "not drawn (fraction, size, max_train_set or max_count)",
    "val": "not drawn (max_val_set, eval_size or max_count)",
}


@dataclass(frozen=True)
class RecordCounts:
    """Number of records of one data set by outcome. `train`, `val`, `left_out` and `bad` add up to `records`."""

    name: str
    records: int
    """Number of records read."""
    train: int
    """Number of records with at least one document in train."""
    val: int
    """Number of records with at least one document in val."""
    left_out: dict[str, int]
    """Reason -> number of valid records without a document in the output."""
    bad: dict[str, int]
    """Reason -> number of bad records."""


def count_records(names: list[str], tables: Tables, chosen: dict[str, list[Selected]]) -> list[RecordCounts]:
    """Return the number of records by outcome for each data set in `names`.

    `tables` has the documents of each data set, and `chosen` the documents selected from each data set for each split.
    """
    counts = []
    for number, (name, pair, headers) in enumerate(zip(names, tables, part_headers(tables), strict=True)):
        selections = [(split, own) for split, all_ in chosen.items() for own in all_ if own.dataset == number]
        outcomes: Counter[str] = Counter()
        for table in filter(None, pair):
            outcomes += _outcomes(table, [(split, own) for split, own in selections if own.table is table])
        outcomes += sum((header.dropped for header in headers), Counter())
        bad: Counter[str] = sum((header.bad for header in headers), Counter())
        records = sum(header.num_records for header in headers)
        outcomes["joined with another record, or skipped by the reader"] = max(
            0, records - outcomes.total() - bad.total()
        )
        train, val = outcomes.pop("train", 0), outcomes.pop("val", 0)
        counts.append(RecordCounts(name, records, train, val, dict(+outcomes), dict(bad)))
    return counts


def _outcomes(table: DocumentTable, selections: Iterable[tuple[str, Selected]]) -> Counter[str]:
    """Return outcome -> number of records in `table`.

    An outcome is `train`, `val`, or a reason to leave the record out. `selections` has (split, documents selected from
    the table).
    """
    owner = np.repeat(np.arange(table.unit_documents.size), table.unit_documents)
    labels = ["in no split", "no conversation in the record"]
    label_of = (table.unit_documents == 0).astype(np.int64)
    for split, own in selections:
        # A later outcome of a record replaces an earlier one, so a written document takes precedence.
        groups = [(_NOT_DRAWN[split], own.candidates)]
        groups += [(reason, own.processed[own.outcomes == code]) for code, reason in enumerate(own.reasons, 1)]
        for label, documents in [*groups, (split, own.documents)]:
            label_of[owner[documents]] = len(labels)
            labels.append(label)
    counts: Counter[str] = Counter()
    for label, count in zip(labels, np.bincount(label_of, minlength=len(labels)).tolist(), strict=True):
        counts[label] += count
    return +counts
