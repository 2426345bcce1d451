"""Compute statistics of the documents in the output, for each data set and in total."""

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
    """Statistics of one data set in one split, or the total over all data sets of the split."""

    name: str
    """Name of the data set in the configuration."""
    report_name: str
    """Name of the data set in the published report `P-train_stats.txt`."""
    candidates: int
    """Number of documents from which `fraction` or `size` draws."""
    requested: int
    """Number of documents that `fraction` or `size` asks for in train. In val it equals `candidates`."""
    samples: int
    """Number of documents drawn, before any are left out. A document drawn twice counts twice."""
    fraction: float
    """Share of the candidates that is drawn, as the reports show it. Above 1, documents are drawn again."""
    accepted: int
    """Number of documents written to the output."""
    skipped: dict[str, int]
    """Reason -> number of drawn documents that are left out."""
    tokens: int
    """Number of tokens in the written documents."""
    role_tokens: dict[str, int]
    """Role -> number of its tokens in the written documents."""
    languages: dict[str, int]
    """Language -> number of written documents."""
    control_tokens_in_text: int
    """Number of control tokens, such as `</s>`, that the text of messages spells."""
    straddling_tokens: int
    """Number of tokens that get no loss because they straddle the border of a reply (encode/token_roles.py)."""
    dropped: dict[str, int]
    """Reason -> number of records of the train files that give no document. Empty for val."""
    lengths: NDArray[np.integer[Any]]
    """(accepted,) number of tokens of each written document."""
    turns: NDArray[np.integer[Any]]
    """(accepted,) number of turns of each written document."""

    @property
    def processed(self) -> int:
        """Number of drawn documents, written and left out."""
        return self.accepted + sum(self.skipped.values())

    @property
    def loss_tokens(self) -> int:
        """Number of tokens that get loss."""
        return self.role_tokens.get(Role.ASSISTANT.name.lower(), 0)

    def length_figures(self) -> dict[str, float]:
        """Return min, mean, median, p95, p99 and max of tokens per document; all are 0 without documents."""
        return _figures(self.lengths)

    def turn_figures(self) -> dict[str, float]:
        """Return min, mean, median, p95, p99 and max of turns per document; all are 0 without documents."""
        return _figures(self.turns)

    def to_json(self) -> dict[str, Any]:
        """Return all statistics as plain data for stats.json.

        It has summaries of `lengths` and `turns` instead of the arrays.
        """
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
    """Return the statistics of the documents that are selected from one data set for one split.

    `entry` says how many documents the configuration asks for. `is_train` says whether the split is train.
    """
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
        straddling_tokens=int(table.straddling[documents].sum()),
        dropped=dict(table.dropped) if is_train else {},
        lengths=table.sizes[documents],
        turns=table.turns[documents],
    )


def total_stats(parts: list[DatasetStats]) -> DatasetStats:
    """Return the sum of the statistics of several data sets, under the name `total`."""
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
        straddling_tokens=sum(part.straddling_tokens for part in parts),
        lengths=np.concatenate([np.empty(0, np.int32), *(part.lengths for part in parts)]),
        turns=np.concatenate([np.empty(0, np.int32), *(part.turns for part in parts)]),
        **{name: dict(counter) for name, counter in counters.items()},
    )
