"""Figures of what was written, and the published report (`P-train_stats.txt`), byte for byte the original's."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.roles import Role
from pretokenizer.selection.select_documents import Selected


@dataclass(frozen=True)
class DatasetStats:
    """One data set in one split, or the total."""

    name: str
    """Name in the section."""
    report_name: str
    """Name in the published report."""
    samples: int
    """Samples after sampling."""
    fraction: float
    """Configured share of the samples."""
    accepted: int
    skipped: dict[str, int]
    """By reason."""
    tokens: int
    """Tokens of accepted documents."""
    role_tokens: dict[str, int]
    """Tokens by role."""
    languages: dict[str, int]
    """Accepted documents by language."""
    control_tokens_in_text: int
    """Control tokens spelled inside messages."""
    dropped: dict[str, int]
    """Records that were never samples, by reason (train and val together)."""
    lengths: NDArray[np.integer[Any]]
    """(accepted,) tokens of each document."""

    @property
    def processed(self) -> int:
        """Accepted and skipped."""
        return self.accepted + sum(self.skipped.values())

    @property
    def loss_tokens(self) -> int:
        """Tokens that get loss."""
        return self.role_tokens.get(Role.ASSISTANT.name.lower(), 0)

    def length_figures(self) -> dict[str, float]:
        """min, mean, median, p95, p99, max tokens per document; zeros when there is none."""
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
        """All figures but the single lengths."""
        figures = {key: value for key, value in asdict(self).items() if key != "lengths"}
        return {
            **figures,
            "processed": self.processed,
            "loss_tokens": self.loss_tokens,
            "length": self.length_figures(),
        }


def dataset_stats(selected: Selected, is_train: bool) -> DatasetStats:
    """Figures of one data set."""
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
    """The sum of data sets, under the name `total`."""
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
