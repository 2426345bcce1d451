"""Select the documents of train and val: order the records, split them, sample, and filter.

Random numbers are drawn in the order of Open-Assistant's pretokenizer: first to shorten the validation set of every
data set, in the order of the section, and then to sample the training set of every data set.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pretokenizer.config.settings import DatasetEntry, PretokenizeConfig
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.selection.document_table import DocumentTable
from pretokenizer.selection.filters import matching
from pretokenizer.selection.sampling import TrainSampler, ValCutter
from pretokenizer.sources.messages import Messages
from pretokenizer.sources.source import Source
from pretokenizer.sources.splits import split_sklearn, split_torch
from pretokenizer.tasks.plan import Plan


@dataclass(frozen=True)
class Selected:
    """The documents of one data set that are selected for one split, train or val."""

    dataset: int
    """Index of the data set among the configuration's entries."""
    name: str
    """Name of the data set in the section."""
    report_name: str
    """Name of the data set in the published report."""
    table: DocumentTable
    candidates: NDArray[np.int64]
    """Indices into `table` of all documents that belong to the split, before samples are drawn."""
    processed: NDArray[np.int64]
    """Indices into `table` of the documents drawn, in the order of writing. A fraction above 1 repeats documents."""
    fraction: float
    """Share of the candidates that were drawn, as the report shows it."""
    outcomes: NDArray[np.uint8]
    """One value for each document in `processed`: 0 if it is written, i + 1 if it is left out for reasons[i]."""
    reasons: tuple[str, ...] = ()
    """Reasons for which documents are left out, such as `duplicate`."""

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Mask over `processed` that is true for the documents to write."""
        return self.outcomes == 0

    @property
    def documents(self) -> NDArray[np.int64]:
        """Indices into `table` of the documents to write, in this order."""
        return self.processed[self.accepted]

    @property
    def skipped(self) -> dict[str, int]:
        """Reason -> number of documents in `processed` that are left out for it."""
        counts = np.bincount(self.outcomes, minlength=len(self.reasons) + 1)[1:].tolist()
        return {reason: count for reason, count in zip(self.reasons, counts, strict=True) if count}

    def leave_out(self, hit: NDArray[np.bool_], reason: str) -> "Selected":
        """Return a copy that also leaves out the documents marked in `hit`, a mask over `processed`, for `reason`."""
        hit = hit & self.accepted
        if not hit.any():
            return self
        reasons = (*self.reasons, reason)
        return replace(self, outcomes=np.where(hit, np.uint8(len(reasons)), self.outcomes), reasons=reasons)


def select(plan: Plan, tables: list[tuple[DocumentTable, DocumentTable | None]]) -> dict[str, list[Selected]]:
    """Return {"train": ..., "val": ...}: for each split, the documents selected from each data set.

    `tables` holds the tables of each data set, as `read_tables` returns them. Raises ConfigError when a data set is too
    small for its `val_split` or `size`.
    """
    config, sources = plan.config, plan.sources
    sampler = TrainSampler(config.rng_seed)
    cutter = ValCutter(config.rng_seed, config.eval_size)
    train: list[Selected] = []
    val: dict[object, Selected] = {}
    for number, (entry, source, (table, native_val)) in enumerate(zip(config.entries, sources, tables, strict=True)):
        train_documents, val_documents, is_subset = _split(entry, source, table, native_val)
        name = f"Subset of {source.report_name}" if is_subset else source.report_name
        nothing = np.empty(0, dtype=np.int64)  # training documents are drawn after all validation sets are cut
        train.append(Selected(number, entry.name, name, table, train_documents, nothing, 1.0, _all_written(nothing)))
        if val_documents is not None:
            cut, is_cut = cutter.cut(val_documents, entry.max_val_set)
            val_name = f"Subset of {source.report_name}" if is_subset or is_cut else source.report_name
            # Open-Assistant stores validation sets by name: a later entry replaces an earlier one of the same name.
            key: object = number if isinstance(source, Messages) else entry.name
            own_table = native_val or table
            val[key] = Selected(number, entry.name, val_name, own_table, val_documents, cut, 1.0, _all_written(cut))
    for i, entry in enumerate(config.entries):
        documents, fraction = sampler.sample(train[i].candidates, entry)
        train[i] = replace(train[i], processed=documents, fraction=fraction, outcomes=_all_written(documents))
    splits = {"train": train, "val": list(val.values())}
    return {
        split: _limit([_filter(s, config, split) for s in chosen], config.max_count) for split, chosen in splits.items()
    }


def _split(
    entry: DatasetEntry, source: Source, table: DocumentTable, native_val: DocumentTable | None
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, bool]:
    """Split a data set. Return (training documents, validation documents or None, whether the report says `Subset of`).

    Documents are indices into the table of their split. The published report uses Open-Assistant's names, which are
    `Subset of NAME` for some splits.
    """
    units = np.arange(table.unit_documents.size)
    order = source.order(table.num_records)
    if order is not None:
        unit_of_record = np.full(table.num_records, -1, dtype=np.int64)
        unit_of_record[table.unit_records] = units
        units = unit_of_record[np.array(order, dtype=np.int64)]
        units = units[units >= 0]
    if source.split == "native":
        val = np.arange(native_val.sizes.size) if native_val else None
        return table.documents_of_units(units), val, False
    try:
        if source.split == "torch":
            seed = getattr(source.options, "manual_seed", None)
            train_units, val_units = split_torch(units.size, entry.val_split, *([seed] if seed is not None else []))
            return table.documents_of_units(units[train_units]), table.documents_of_units(units[val_units]), False
        train_units, maybe_val = split_sklearn(units.size, entry.val_split)
    except ConfigError as error:
        raise ConfigError(f"datasets: {entry.name}: {error}") from None
    val_documents = None if maybe_val is None else table.documents_of_units(units[maybe_val])
    return table.documents_of_units(units[train_units]), val_documents, maybe_val is not None


def _all_written(documents: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.zeros(documents.size, dtype=np.uint8)


def _filter(selected: Selected, config: PretokenizeConfig, split: str) -> Selected:
    for reason, hit in matching(selected.table, selected.processed, config, split):
        selected = selected.leave_out(hit, reason)
    return selected


def _limit(chosen: list[Selected], max_count: int | None) -> list[Selected]:
    """Return the selection of one split, cut after `max_count` accepted documents over all data sets.

    None or 0 means no limit.
    """
    if not max_count:
        return chosen
    limited = []
    left = max_count
    for selected in chosen:
        written = np.flatnonzero(selected.accepted)
        if written.size > left:
            end = int(written[left - 1]) + 1 if left else 0
            selected = replace(selected, processed=selected.processed[:end], outcomes=selected.outcomes[:end])
        left -= int(selected.accepted.sum())
        limited.append(selected)
    return limited
