"""Showing documents as the trainer will see them, read from the written shards.

    python -m pretokenizer inspect output/oasst_top1_llama2/oasst_top1-train --num 2

Tokens are coloured by role; those that get loss are underlined. With --plain (or into a file) each run of tokens of one
role stands in brackets, and `*` marks loss: `[user:9 ...][assistant*:24 ...]`.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pretokenizer.chat.roles import Role
from pretokenizer.files.manifest import DataManifest, ManifestError
from pretokenizer.files.shard import ShardError, ShardReader
from pretokenizer.output.check import check_prefix, read_origins
from pretokenizer.output.write_shards import origin_path
from pretokenizer.tokenizer.tokenizer import Tokenizer, load_tokenizer_folder

# All but tab and line feed: a terminal obeys them, the 8-bit ones too.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOURS = {
    Role.SYSTEM: "35",
    Role.USER: "36",
    Role.ASSISTANT: "32;4",
    Role.CONTEXT: "33",
    Role.ASSISTANT_NO_LOSS: "31",
}


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


def render_document(ids: Any, roles: Any, tokenizer: Tokenizer, plain: bool) -> str:
    """One document's text, run by run of one role; control characters of the data as `\\x1b`."""
    pieces = []
    bounds = [0, *(np.flatnonzero(np.diff(roles)) + 1).tolist(), len(roles)] if len(roles) else [0]
    for begin, end in pairwise(bounds):
        role = Role(int(roles[begin]))
        text = _CONTROLS.sub(lambda match: f"\\x{ord(match.group()):02x}", tokenizer.decode(ids[begin:end].tolist()))
        if plain:
            mark = "*" if role.gets_loss else ""
            pieces.append(f"[{role.name.lower()}{mark}:{end - begin} {text}]")
        else:
            lines = text.split("\n")
            pieces.append("\n".join(f"\033[{_COLOURS[role]}m{line}\033[0m" if line else "" for line in lines))
    return "".join(pieces)


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
