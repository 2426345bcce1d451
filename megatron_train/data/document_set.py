"""The documents of shards, numbered through: their lengths, and their tokens and roles where they are asked for.

documents = DocumentSet(["output/oasst/oasst-train"])
token_ids, role_ids = documents.piece(document=3, start=0, length=int(documents.lengths[3]))
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_train.data.batch import Document
from pretokenizer.files.shard import ShardError, ShardReader


class DocumentSet:
    """Documents of one or more prefixes, numbered through. `lengths` [n] counts tokens."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        self.prefixes = tuple(prefixes)
        self._shards = [_open_pair(prefix) for prefix in prefixes]
        self.first = np.cumsum([0] + [len(text) for text, _ in self._shards])
        self.lengths = np.concatenate([text.sizes for text, _ in self._shards]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def roles(self) -> list[ShardReader]:
        """The role shards, one per prefix."""
        return [role for _, role in self._shards]

    def piece(self, document: int, start: int, length: int) -> Document:
        """(token_ids [length], role_ids [length])."""
        shard = int(np.searchsorted(self.first, document, side="right")) - 1
        text, role = self._shards[shard]
        index = document - int(self.first[shard])
        return text.get(index, start, length), role.get(index, start, length)

    def fingerprint(self) -> str:
        """Changes when the documents' number or lengths do."""
        return hashlib.sha256(self.lengths.tobytes()).hexdigest()[:16]


def _open_pair(prefix: str) -> tuple[ShardReader, ShardReader]:
    if not Path(f"{prefix}-text.idx").is_file():
        raise ShardError(f"{prefix}-text.idx: no such shard; {_prefixes_near(prefix)}")
    text, role = ShardReader(f"{prefix}-text"), ShardReader(f"{prefix}-role")
    if not np.array_equal(text.sizes, role.sizes):
        raise ShardError(f"{prefix}-role.idx: its document lengths differ from {prefix}-text.idx; pretokenize again")
    return text, role


def _prefixes_near(prefix: str) -> str:
    folders = [Path(prefix).parent, *sorted(Path("output").glob("*"))]
    found = sorted(
        {str(p)[: -len("-text.idx")] for folder in folders if folder.is_dir() for p in folder.glob("*-text.idx")}
    )
    return (
        f"prefixes found: {', '.join(found)}" if found else "no prefix found there or under output/: pretokenize first"
    )
