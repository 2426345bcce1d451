"""Checking what was written: every file against the manifest, every count and id read again.

python -m pretokenizer check output/oasst_top1_llama2          exit 0 = sound, 1 = what is wrong, by file name
python -m pretokenizer check output/oasst_top1_llama2/oasst_top1-train
"""

from pathlib import Path

import numpy as np

from pretokenizer.manifest import MANIFEST_NAME, DataManifest, ManifestError, SplitManifest
from pretokenizer.publish import sha256_file
from pretokenizer.roles import Role
from pretokenizer.shard import ShardError, ShardReader
from pretokenizer.tokenizer import TokenizerError, load_tokenizer_folder

BLOCK_TOKENS = 16 << 20
"""Tokens looked at in one go."""


def check_path(path: Path) -> tuple[list[str], str]:
    """(problems, line that says what is sound) of a folder or of one shard's prefix."""
    if path.is_dir():
        return check_folder(path)
    prefix = _strip(path)
    manifest_folder = prefix.parent if (prefix.parent / MANIFEST_NAME).is_file() else None
    vocab_size = None
    if manifest_folder:
        try:
            vocab_size = DataManifest.load(manifest_folder).vocab_size
        except ManifestError as error:
            return [str(error)], ""
    problems, documents, tokens = check_prefix(prefix, vocab_size)
    return problems, f"{prefix}: sound: {documents:,} documents, {tokens:,} tokens"


def check_folder(folder: Path) -> tuple[list[str], str]:
    """All of a finished folder: files and their sha256, shards, counts, tokenizer."""
    try:
        manifest = DataManifest.load(folder)
    except ManifestError as error:
        return [str(error)], ""
    problems = _check_files(folder, manifest)
    for split in manifest.splits.values():
        problems += _check_split(folder, split, manifest.vocab_size)
    problems += _check_tokenizer(folder, manifest)
    counts = ", ".join(
        f"{name} {split.documents:,} documents {split.tokens:,} tokens" for name, split in manifest.splits.items()
    )
    return problems, f"{folder}: sound: {len(manifest.outputs)} files, {counts}"


def check_prefix(prefix: Path, vocab_size: int | None) -> tuple[list[str], int, int]:
    """(problems, documents, tokens) of a pair of text and role shards; ids are compared with `vocab_size` if known."""
    try:
        text, role = ShardReader(f"{prefix}-text"), ShardReader(f"{prefix}-role")
    except ShardError as error:
        return [str(error)], 0, 0
    problems = []
    if len(text) != len(role):
        problems.append(f"{prefix}-role.idx: {len(role)} documents, but the text has {len(text)}")
    elif not np.array_equal(text.sizes, role.sizes):
        first = int(np.flatnonzero(text.sizes != role.sizes)[0])
        problems.append(
            f"{prefix}-role.idx: document {first} has {role.sizes[first]} roles for {text.sizes[first]} tokens"
        )
    for reader in (text, role):
        if not reader.is_contiguous:
            problems.append(f"{reader.prefix}.bin: documents do not fill the file one after another")
    if problems:
        return problems, len(text), int(text.sizes.sum(dtype=np.int64))
    known_roles = np.array([int(r) for r in Role])
    for start in range(0, text.flat().size, BLOCK_TOKENS):
        ids, roles = text.flat()[start : start + BLOCK_TOKENS], role.flat()[start : start + BLOCK_TOKENS]
        if vocab_size is not None and (int(ids.max()) >= vocab_size or int(ids.min()) < 0):
            position = start + int(np.flatnonzero((ids >= vocab_size) | (ids < 0))[0])
            problems.append(
                f"{prefix}-text.bin: token {position} has id {text.flat()[position]}, vocabulary {vocab_size}"
            )
            break
        if not np.isin(roles, known_roles).all():
            position = start + int(np.flatnonzero(~np.isin(roles, known_roles))[0])
            problems.append(f"{prefix}-role.bin: token {position} has the unknown role {role.flat()[position]}")
            break
    return problems, len(text), int(text.flat().size)


def _check_files(folder: Path, manifest: DataManifest) -> list[str]:
    problems = []
    for name, record in manifest.outputs.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif path.stat().st_size != record.bytes:
            problems.append(f"{path}: {path.stat().st_size} bytes, the manifest says {record.bytes}")
        elif sha256_file(path) != record.sha256:
            problems.append(f"{path}: contents differ from the manifest's sha256")
    return problems


def _check_split(folder: Path, split: SplitManifest, vocab_size: int) -> list[str]:
    prefix = folder / split.prefix
    problems, documents, tokens = check_prefix(prefix, vocab_size)
    if problems:
        return problems
    if (documents, tokens) != (split.documents, split.tokens):
        problems.append(
            f"{prefix}-text.idx: {documents} documents with {tokens} tokens, "
            f"the manifest says {split.documents} with {split.tokens}"
        )
    by_dataset = sum(d.documents for d in split.datasets), sum(d.tokens for d in split.datasets)
    if by_dataset != (split.documents, split.tokens):
        problems.append(f"{folder / MANIFEST_NAME}: data sets of {split.prefix} sum to {by_dataset}, not to its counts")
    return problems


def _check_tokenizer(folder: Path, manifest: DataManifest) -> list[str]:
    try:
        tokenizer = load_tokenizer_folder(folder / "tokenizer")
    except TokenizerError as error:
        return [str(error)]
    problems = []
    if tokenizer.fingerprint != manifest.tokenizer_fingerprint:
        problems.append(f"{folder / 'tokenizer'}: fingerprint differs from the manifest's")
    if tokenizer.vocab_size != manifest.vocab_size:
        problems.append(
            f"{folder / 'tokenizer'}: {tokenizer.vocab_size} tokens, the manifest says {manifest.vocab_size}"
        )
    return problems


def _strip(path: Path) -> Path:
    """The prefix, also of a file's full name."""
    name = path.name
    for suffix in (".bin", ".idx", "-text", "-role"):
        name = name.removesuffix(suffix)
    return path.with_name(name)
