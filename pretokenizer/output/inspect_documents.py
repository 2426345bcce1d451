"""Showing documents as the trainer will see them, read from the written shards.

    python -m pretokenizer inspect output/oasst_top1_llama2/oasst_top1-train --num 2

Tokens are coloured by role; those that get loss are underlined. With --plain (or into a file) each run of tokens of one
role stands in brackets, and `*` marks loss: `[user:9 ...][assistant*:24 ...]`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pretokenizer.chat.roles import Role
from pretokenizer.files.manifest import DataManifest, ManifestError
from pretokenizer.files.origin import origin_path, read_origins
from pretokenizer.files.shard import ShardError, ShardReader
from pretokenizer.output.check import check_prefix
from pretokenizer.reports.render import render_document
from pretokenizer.tokenizer.load import load_tokenizer_folder

# All but tab and line feed: a terminal obeys them, the 8-bit ones too.


def inspect_shard(prefix: str, num: int, start: int, plain: bool) -> Iterator[str]:
    """Lines that show `num` documents from number `start` on. Raises ShardError or ManifestError."""
    path = Path(prefix.removesuffix("-text"))
    problems, count, tokens = check_prefix(path, None)
    if problems:
        raise ShardError("\n".join(problems))
    text, role = ShardReader(f"{path}-text"), ShardReader(f"{path}-role")
    manifest = DataManifest.load(path.parent)
    tokenizer = load_tokenizer_folder(path.parent / "tokenizer")
    if not 0 <= start < max(count, 1):
        raise ShardError(f"{path}: --start {start}, but there are {count} documents")
    yield f"{path}: {count:,} documents, {tokens:,} tokens, {manifest.chat_format}; tokens that get loss: " + (
        "marked *" if plain else "\033[32;4mgreen, underlined\033[0m"
    )
    origins = read_origins(origin_path(path), count)
    for index in range(start, min(start + num, count)):
        roles = np.asarray(role[index])
        loss = int((roles == Role.ASSISTANT).sum())
        yield ""
        yield f"--- document {index}: {roles.size} tokens, {loss} get loss{_origin(origins, index, manifest)}"
        yield render_document(text[index], roles, tokenizer, plain)


def _origin(origins: Any, index: int, manifest: DataManifest) -> str:
    if origins is None:
        return ""
    dataset, file, record = (int(n) for n in origins[index])
    try:
        path = manifest.reports["files"][dataset][file]
    except (KeyError, IndexError, TypeError):
        raise ManifestError(
            f"document {index} names file {file} of data set {dataset}, which manifest.json has not"
        ) from None
    return f", from {path} record {record + 1}"
