"""Sample a few training documents for the reports, spread over the data sets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretokenizer.selection.select_documents import Selected
from pretokenizer.selection.token_store import TokenStore

MAX_TOKENS = 600
"""Number of tokens after which the reports cut a document."""


@dataclass(frozen=True)
class Example:
    """A sample document for the reports, cut after MAX_TOKENS tokens."""

    dataset: str
    num_tokens: int
    """Number of tokens in the document before the cut."""
    token_ids: NDArray[Any]
    role_ids: NDArray[Any]


def sample_documents(chosen: list[Selected], store: TokenStore, count: int) -> list[Example]:
    """Return `count` documents, taken from each data set in turn. A small data set may give a document twice.

    `chosen` has the documents selected from each data set for one split; `store` reads their tokens. The list is empty
    if no data set has a document.
    """
    with_documents = [selected for selected in chosen if selected.documents.size]
    examples = []
    for i in range(count if with_documents else 0):
        selected = with_documents[i % len(with_documents)]
        position = (i // len(with_documents)) % selected.documents.size
        document = selected.documents[position : position + 1]
        token_ids = store.gather(selected.table, document)
        role_ids = store.gather_roles(selected.table, document, np.uint8)
        examples.append(Example(selected.name, token_ids.size, token_ids[:MAX_TOKENS], role_ids[:MAX_TOKENS]))
    return examples
