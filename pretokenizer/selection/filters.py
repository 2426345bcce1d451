"""Filters: which selected documents are not written, and why.

A filter is a function (table, documents, config) -> mask of the documents to leave out; the first filter that hits
names the reason in the reports. To add one: a function, a line in FILTERS, a field in PretokenizeConfig, and a line in
TRAIN_ONLY where val keeps such documents.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pretokenizer.config.settings import PretokenizeConfig
from pretokenizer.selection.document_table import DocumentTable

Filter = Callable[[DocumentTable, NDArray[np.int64], PretokenizeConfig], NDArray[np.bool_]]


def too_few_assistant_tokens(
    table: DocumentTable, documents: NDArray[np.int64], config: PretokenizeConfig
) -> NDArray[np.bool_]:
    """Fewer than min_assistant_tokens tokens in turns with role assistant, template tokens included; train and val."""
    return table.assistant_tokens[documents] < (config.min_assistant_tokens or 0)


def contaminated(table: DocumentTable, documents: NDArray[np.int64], config: PretokenizeConfig) -> NDArray[np.bool_]:
    """Shares a run of words with a test question (see decontaminate.py); train only."""
    return table.contaminated[documents]


FILTERS: dict[str, Filter] = {
    "too few assistant tokens": too_few_assistant_tokens,
    "test question": contaminated,
}


TRAIN_ONLY = ("test question",)
"""Filters that leave val as it is."""


def apply_filters(
    table: DocumentTable, documents: NDArray[np.int64], config: PretokenizeConfig, split: str
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """(mask of the documents to write, number left out by reason)."""
    accepted = np.ones(documents.size, dtype=bool)
    skipped = {}
    for reason, is_out in FILTERS.items():
        if split != "train" and reason in TRAIN_ONLY:
            continue
        hit = is_out(table, documents, config) & accepted
        if hit.any():
            skipped[reason] = int(hit.sum())
            accepted &= ~hit
    return accepted, skipped
