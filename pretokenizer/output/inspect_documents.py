"""Print documents as the trainer sees them, read from the written shards.

    python -m pretokenizer inspect output/oasst_top1_llama2 --num 2                     # of train and of val
    python -m pretokenizer inspect output/oasst_top1_llama2/oasst_top1-train --num 2

Each role has a colour, and tokens with loss are underlined. With --plain, or when the output is no terminal, each run
of tokens of one role is written in brackets with its role and its number of tokens, and `*` marks loss:
`[user:9 ...][assistant*:24 ...]`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pretokenizer.chat.roles import Role
from pretokenizer.files.manifest import DataManifest, ManifestError
from pretokenizer.files.origin import origin_path, read_origins
from pretokenizer.files.shard import ShardError, ShardReader
from pretokenizer.output.check import check_prefix, strip_suffix
from pretokenizer.reports.render import render_document
from pretokenizer.tokenizer.load import load_tokenizer_folder


def inspect_path(path: Path, num: int, start: int, plain: bool) -> Iterator[str]:
    """Yield the lines to print for `num` documents, starting at document `start`, of one shard or of each in a folder.

    Raises ShardError for a damaged shard or a `start` beyond its end, and ManifestError for a folder without manifest.
    """
    prefixes = [strip_suffix(path)]
    if path.is_dir():
        prefixes = [path / split.prefix for split in DataManifest.load(path).splits.values()]
    for number, prefix in enumerate(prefixes):
        if number:
            yield ""
        yield from _inspect_shard(prefix, num, start, plain)


def _inspect_shard(prefix: Path, num: int, start: int, plain: bool) -> Iterator[str]:
    problems, count, tokens = check_prefix(prefix, None)
    if problems:
        raise ShardError("\n".join(problems))
    if not 0 <= start < max(count, 1):
        raise ShardError(f"--start {start}: {prefix} has {count} documents; give a number from 0 to {count - 1}")
    text, role = ShardReader(f"{prefix}-text"), ShardReader(f"{prefix}-role")
    manifest = DataManifest.load(prefix.parent)
    tokenizer = load_tokenizer_folder(prefix.parent / "tokenizer")
    origins = read_origins(origin_path(prefix), count)
    yield f"{prefix}: {count:,} documents, {tokens:,} tokens, {manifest.chat_format}; tokens with loss are " + (
        "marked *" if plain else "\033[32;4mgreen and underlined\033[0m"
    )
    for index in range(start, min(start + num, count)):
        roles = np.asarray(role[index])
        num_loss = int((roles == Role.ASSISTANT).sum())
        yield ""
        yield f"--- document {index}: {roles.size} tokens, {num_loss} with loss{_origin(origins, index, manifest)}"
        yield render_document(text[index], roles, tokenizer, plain)


def _origin(origins: Any, index: int, manifest: DataManifest) -> str:
    """Return the text `, from FILE record N` that names a document's record, or "" when `origins` is None."""
    if origins is None:
        return ""
    dataset, file, record = (int(n) for n in origins[index])
    try:
        path = manifest.reports["files"][dataset][file]
    except (KeyError, IndexError, TypeError):
        raise ManifestError(
            f"document {index} comes from file {file} of data set {dataset}, which manifest.json does not list"
        ) from None
    return f", from {path} record {record + 1}"
