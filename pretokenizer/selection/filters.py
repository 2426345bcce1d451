"""Filters decide which selected documents are left out, and give the reason.

A filter is a function (table, documents, config) -> boolean mask that is true for the documents to leave out. The
reports count a document under the first filter that matches. To add a filter, write a function, a line in FILTERS and a
field in PretokenizeConfig; add it to TRAIN_ONLY if val keeps such documents.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pretokenizer.config.settings import PretokenizeConfig
from pretokenizer.selection.document_table import DocumentTable

Filter = Callable[[DocumentTable, NDArray[np.int64], PretokenizeConfig], NDArray[np.bool_]]


def too_few_assistant_tokens(
    table: DocumentTable, documents: NDArray[np.int64], config: PretokenizeConfig
) -> NDArray[np.bool_]:
    """Return (n,): whether each document has fewer than `min_assistant_tokens` tokens in its assistant turns.

    Template tokens count.
    """
    return table.assistant_tokens[documents] < (config.min_assistant_tokens or 0)


def contaminated(table: DocumentTable, documents: NDArray[np.int64], config: PretokenizeConfig) -> NDArray[np.bool_]:
    """Return (n,): whether each document shares consecutive words with a test question (see tasks/decontaminate.py)."""
    return table.contaminated[documents]


FILTERS: dict[str, Filter] = {
    "too few assistant tokens": too_few_assistant_tokens,
    "test question": contaminated,
}


TRAIN_ONLY = ("test question",)
"""Names of filters that apply to train only, not to val."""


def matching(
    table: DocumentTable, documents: NDArray[np.int64], config: PretokenizeConfig, split: str
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield, for each filter that applies to `split`, its reason and the mask of the documents that it leaves out."""
    for reason, is_out in FILTERS.items():
        if split == "train" or reason not in TRAIN_ONLY:
            yield reason, is_out(table, documents, config)
