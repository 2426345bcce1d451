"""Figures of the documents in the output, for each data set and in total."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.roles import Role
from pretokenizer.selection.select_documents import Selected


@dataclass(frozen=True)
class DatasetStats:
    """Figures of one data set in one split, or of all data sets."""

    name: str
    """Name of the data set in the section."""
    report_name: str
    """Name of the data set in the published report."""
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
        if not self.lengths.size:
            return dict.fromkeys(("min", "mean", "median", "p95", "p99", "max"), 0)
        median, p95, p99 = np.percentile(self.lengths, [50, 95, 99])
        return {
            "min": int(self.lengths.min()),
            "mean": self.tokens / self.accepted,
            "median": float(median),
            "p95": float(p95),
            "p99": float(p99),
            "max": int(self.lengths.max()),
        }

    def to_json(self) -> dict[str, Any]:
        """Return all figures except the single lengths, as plain data."""
        figures = {key: value for key, value in asdict(self).items() if key != "lengths"}
        return {
            **figures,
            "processed": self.processed,
            "loss_tokens": self.loss_tokens,
            "length": self.length_figures(),
        }


def dataset_stats(selected: Selected, is_train: bool) -> DatasetStats:
    """Count the documents of one data set in one split."""
    table, documents = selected.table, selected.documents
    roles = {role.name.lower(): int(table.role_tokens(role)[documents].sum()) for role in Role}
    langs = Counter(dict(enumerate(np.bincount(table.langs[documents], minlength=len(table.lang_names)).tolist())))
    return DatasetStats(
        name=selected.name,
        report_name=selected.report_name,
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
        samples=sum(part.samples for part in parts),
        fraction=1.0,
        accepted=sum(part.accepted for part in parts),
        tokens=sum(part.tokens for part in parts),
        control_tokens_in_text=sum(part.control_tokens_in_text for part in parts),
        lengths=np.concatenate([part.lengths for part in parts]) if parts else np.empty(0, np.int64),
        **{name: dict(counter) for name, counter in counters.items()},
    )
