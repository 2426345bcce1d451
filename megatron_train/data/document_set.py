"""Documents of several shards under one numbering: their lengths, tokens and roles.

    documents = DocumentSet(["output/oasst/oasst-train"])
    token_ids, role_ids = documents.piece(document=3, start=0, length=int(documents.lengths[3]))

A prefix names two shards, PREFIX-text with token ids and PREFIX-role with role ids. The files of Megatron's own
preprocessing, PREFIX_text_document.bin and .idx, have no roles. All of their tokens get the role `system`, and
--loss_roles all trains on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_train.data.batch import Document
from pretokenizer.files.shard import ShardError, ShardReader

PLAIN_SUFFIX = "_text_document"
"""Suffix of the files that Megatron's tools/preprocess_data.py writes."""


class DocumentSet:
    """Documents of one or more shard prefixes under one numbering. `lengths` [n] holds their numbers of tokens.

    Raises ShardError naming a missing or inconsistent file.
    """

    def __init__(self, prefixes: Sequence[str]) -> None:
        self.prefixes = tuple(prefixes)
        self._shards = [_open_pair(prefix) for prefix in prefixes]
        self.first = np.cumsum([0] + [len(text) for text, _ in self._shards])
        """[prefixes + 1] number of the first document of each prefix, and at the end the number of documents."""
        self.without_roles = [prefix for prefix, (_, role) in zip(self.prefixes, self._shards) if role is None]
        """Prefixes whose shards have no roles."""
        self.lengths = np.concatenate([text.sizes for text, _ in self._shards]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.first[-1])

    def flat_roles(self) -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer]]]:
        """Yield for each prefix the role ids of all tokens, joined [tokens], and the document lengths [documents]."""
        for text, role in self._shards:
            if role is None:
                yield np.broadcast_to(np.uint16(0), int(text.sizes.sum())), text.sizes
            else:
                yield role.flat() if role.is_contiguous else np.concatenate(list(role)), role.sizes

    def piece(self, document: int, start: int, length: int) -> Document:
        """Return (token_ids [length], role_ids [length]) of a document from its token `start` on."""
        shard = int(np.searchsorted(self.first, document, side="right")) - 1
        text, role = self._shards[shard]
        index = document - int(self.first[shard])
        token_ids = text.get(index, start, length)
        return token_ids, np.zeros(length, np.uint16) if role is None else role.get(index, start, length)

    def fingerprint(self) -> str:
        """Return a hash of all document lengths, which recognizes the data without reading its tokens."""
        return hashlib.sha256(self.lengths.tobytes()).hexdigest()[:16]


def _open_pair(prefix: str) -> tuple[ShardReader, ShardReader | None]:
    plain = prefix.removesuffix(PLAIN_SUFFIX) + PLAIN_SUFFIX
    if Path(f"{plain}.idx").is_file() and not Path(f"{prefix}-text.idx").is_file():
        return ShardReader(plain), None
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
