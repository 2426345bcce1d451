"""Figures of the documents in the output, for each data set and in total."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.roles import Role
from pretokenizer.config.settings import DatasetEntry
from pretokenizer.selection.select_documents import Selected


@dataclass(frozen=True)
class DatasetStats:
    """Figures of one data set in one split, or of all data sets."""

    name: str
    """Name of the data set in the section."""
    report_name: str
    """Name of the data set in the published report."""
    candidates: int
    """Number of documents before drawing."""
    requested: int
    """Number of documents that `fraction` or `size` asks for."""
    samples: int
    """Number of samples that were drawn."""
    fraction: float
    """Share of the samples that were drawn."""
    accepted: int
    """Number of documents written."""
    skipped: dict[str, int]
    """Number of samples left out, by reason."""
    tokens: int
    """Number of tokens written."""
    role_tokens: dict[str, int]
    """Number of tokens by role."""
    languages: dict[str, int]
    """Number of documents by language."""
    control_tokens_in_text: int
    """Number of control tokens spelled inside messages."""
    dropped: dict[str, int]
    """Number of records that give no sample, by reason; those of train and val are counted with train."""
    lengths: NDArray[np.integer[Any]]
    """(accepted,) number of tokens of each document."""
    turns: NDArray[np.integer[Any]]
    """(accepted,) number of turns of each document."""

    @property
    def processed(self) -> int:
        """Number of samples, accepted and left out."""
        return self.accepted + sum(self.skipped.values())

    @property
    def loss_tokens(self) -> int:
        """Number of tokens with loss."""
        return self.role_tokens.get(Role.ASSISTANT.name.lower(), 0)

    def length_figures(self) -> dict[str, float]:
        """Return min, mean, median, p95, p99 and max of tokens per document; all are 0 without documents."""
        return _figures(self.lengths)

    def turn_figures(self) -> dict[str, float]:
        """Return min, mean, median, p95, p99 and max of turns per document; all are 0 without documents."""
        return _figures(self.turns)

    def to_json(self) -> dict[str, Any]:
        """Return all figures except the single lengths, as plain data."""
        figures = {key: value for key, value in asdict(self).items() if key not in ("lengths", "turns")}
        return {
            **figures,
            "processed": self.processed,
            "loss_tokens": self.loss_tokens,
            "length": self.length_figures(),
            "turns_per_document": self.turn_figures(),
        }


def _figures(values: NDArray[np.integer[Any]]) -> dict[str, float]:
    if not values.size:
        return dict.fromkeys(("min", "mean", "median", "p95", "p99", "max"), 0)
    median, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        "min": int(values.min()),
        "mean": int(values.sum(dtype=np.int64)) / values.size,
        "median": float(median),
        "p95": float(p95),
        "p99": float(p99),
        "max": int(values.max()),
    }


def dataset_stats(selected: Selected, entry: DatasetEntry, is_train: bool) -> DatasetStats:
    """Count the documents of one data set in one split."""
    candidates = int(selected.candidates.size)
    size = min(entry.size, candidates) if entry.size is not None else candidates
    requested = int(candidates * entry.fraction) if entry.fraction is not None else size
    table, documents = selected.table, selected.documents
    roles = {role.name.lower(): int(table.role_tokens(role)[documents].sum()) for role in Role}
    langs = Counter(dict(enumerate(np.bincount(table.langs[documents], minlength=len(table.lang_names)).tolist())))
    return DatasetStats(
        name=selected.name,
        report_name=selected.report_name,
        candidates=candidates,
        requested=requested if is_train else candidates,
        samples=int(selected.processed.size),
        fraction=selected.fraction,
        accepted=int(documents.size),
        skipped=selected.skipped,
        tokens=int(table.sizes[documents].sum()),
        role_tokens={name: count for name, count in roles.items() if count},
        languages={table.lang_names[i]: n for i, n in langs.most_common() if n},
        control_tokens_in_text=int(table.controls[documents].sum()),
        dropped=dict(table.dropped) if is_train else {},
        lengths=table.sizes[documents],
        turns=table.turns[documents],
    )


def total_stats(parts: list[DatasetStats]) -> DatasetStats:
    """Add up the figures of data sets, under the name `total`."""
    counters: dict[str, Counter[str]] = {name: Counter() for name in ("skipped", "role_tokens", "languages", "dropped")}
    for part in parts:
        for name, counter in counters.items():
            counter.update(getattr(part, name))
    return DatasetStats(
        name="total",
        report_name="total",
        candidates=sum(part.candidates for part in parts),
        requested=sum(part.requested for part in parts),
        samples=sum(part.samples for part in parts),
        fraction=1.0,
        accepted=sum(part.accepted for part in parts),
        tokens=sum(part.tokens for part in parts),
        control_tokens_in_text=sum(part.control_tokens_in_text for part in parts),
        lengths=np.concatenate([np.empty(0, np.int32), *(part.lengths for part in parts)]),
        turns=np.concatenate([np.empty(0, np.int32), *(part.turns for part in parts)]),
        **{name: dict(counter) for name, counter in counters.items()},
    )
