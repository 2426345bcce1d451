"""Verify an output folder: compare every file with the manifest, and check all counts, token ids and role ids.

python -m pretokenizer check output/oasst_top1_llama2          exit status 0: sound; 1: problems, each with its file
python -m pretokenizer check output/oasst_top1_llama2/oasst_top1-train
"""

from pathlib import Path

import numpy as np

from pretokenizer.chat.formats import CHAT_FORMATS, TEMPLATE_NAME, ChatFormatError
from pretokenizer.chat.jinja_format import read_template
from pretokenizer.chat.roles import Role
from pretokenizer.config.settings import parse_entry
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.checksums import FileRecord, sha256_file
from pretokenizer.files.manifest import MANIFEST_NAME, DataManifest, ManifestError, SplitManifest, check_digest
from pretokenizer.files.origin import origin_path, read_origins
from pretokenizer.files.publish import read_json
from pretokenizer.files.shard import ShardError, ShardReader
from pretokenizer.tokenizer.base import SPEC_NAME, Tokenizer, TokenizerError
from pretokenizer.tokenizer.load import load_tokenizer_folder, read_tokenizer_spec

BLOCK_TOKENS = 16 << 20
"""Number of tokens that are read and checked at a time."""


def check_path(path: Path) -> tuple[list[str], str]:
    """Check an output folder, or one split given by the path of its shards.

    Return (problems, message to print when there are none).
    """
    if path.is_dir():
        return check_folder(path)
    prefix = strip_suffix(path)
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
    """Check the manifest, files, shards, counts and tokenizer of an output folder, and input files that still exist.

    Return (problems, message to print when there are none).
    """
    try:
        manifest = DataManifest.load(folder)
        problems = check_digest(folder)
    except ManifestError as error:
        return [str(error)], ""
    problems += _check_files(folder, manifest)
    for split in manifest.splits.values():
        problems += _check_split(folder, split, manifest)
    problems += _check_tokenizer(folder, manifest)
    absent = [name for name in manifest.inputs if not Path(name).is_file()]
    for name, record in manifest.inputs.items():
        problems += _check_file(Path(name), record) if name not in absent else []
    counts = ", ".join(
        f"{name} {split.documents:,} documents {split.tokens:,} tokens" for name, split in manifest.splits.items()
    )
    note = f"\nnote: these input files do not exist here and were not compared: {', '.join(absent)}" if absent else ""
    return problems, f"{folder}: sound: {len(manifest.outputs)} files, {counts}{note}"


def check_prefix(prefix: Path, vocab_size: int | None) -> tuple[list[str], int, int]:
    """Check the text shard and the role shard `<prefix>-text` and `<prefix>-role`.

    Token ids are checked only if `vocab_size` is known. Return (problems, number of documents, number of tokens).
    """
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
            problems.append(f"{reader.prefix}.bin: the documents do not fill the file without gaps")
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
        problems += _check_file(folder / name, record)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    foreign = sorted(found - {MANIFEST_NAME, *manifest.outputs})
    return problems + [f"{folder / name}: is not among the manifest's outputs" for name in foreign]


def _check_file(path: Path, record: FileRecord) -> list[str]:
    if not path.is_file():
        return [f"{path}: missing"]
    if path.stat().st_size != record.bytes:
        return [f"{path}: {path.stat().st_size} bytes, the manifest says {record.bytes}"]
    return [] if sha256_file(path) == record.sha256 else [f"{path}: contents differ from the manifest's sha256"]


def _check_split(folder: Path, split: SplitManifest, manifest: DataManifest) -> list[str]:
    prefix = folder / split.prefix
    problems, documents, tokens = check_prefix(prefix, manifest.vocab_size)
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
    return problems + _check_datasets(prefix, split, manifest)


def _check_datasets(prefix: Path, split: SplitManifest, manifest: DataManifest) -> list[str]:
    """Compare the manifest's counts of each data set in a split with the origins of the split's documents.

    Return the problems. The documents of one data set are consecutive in a shard.
    """
    sizes = ShardReader(f"{prefix}-text").sizes.astype(np.int64)
    try:
        origins = read_origins(origin_path(prefix), sizes.size)
        section = manifest.section
        names = [parse_entry(item)[0].name for item in (*section["datasets"], *section["datasets_extra"])]
    except ShardError as error:
        return [str(error)]
    except (ConfigError, KeyError, TypeError) as error:
        return [f"{prefix.parent / MANIFEST_NAME}: section: its data sets cannot be read: {error}"]
    if origins is None or not sizes.size:
        return []
    numbers = origins[:, 0]
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
    counts = np.diff(starts, append=sizes.size).tolist()
    found = [
        (names[number] if 0 <= number < len(names) else f"data set {number}", documents, tokens)
        for number, documents, tokens in zip(
            numbers[starts].tolist(), counts, np.add.reduceat(sizes, starts).tolist(), strict=True
        )
    ]
    recorded = [(d.name, d.documents, d.tokens) for d in split.datasets if d.documents or d.tokens]
    if found == recorded:
        return []
    return [f"{origin_path(prefix)}: {_counted(found)}, the manifest says {_counted(recorded)}"]


def _counted(counts: list[tuple[str, int, int]]) -> str:
    return ", ".join(f"{name} {documents} documents with {tokens} tokens" for name, documents, tokens in counts)


def _check_tokenizer(folder: Path, manifest: DataManifest) -> list[str]:
    tokenizer_folder, special_path = folder / "tokenizer", folder / "special_tokens.json"
    try:
        tokenizer, spec = load_tokenizer_folder(tokenizer_folder), read_tokenizer_spec(tokenizer_folder)
    except TokenizerError as error:
        return [str(error)]
    problems = []
    if tokenizer.fingerprint != manifest.tokenizer_fingerprint:
        problems.append(f"{tokenizer_folder}: fingerprint differs from the manifest's")
    if tokenizer.vocab_size != manifest.vocab_size:
        problems.append(f"{tokenizer_folder}: {tokenizer.vocab_size} tokens, the manifest says {manifest.vocab_size}")
    for name in ("chat_format", "pad_token_id", "bos_token_id", "special_tokens"):
        if spec.get(name) != getattr(manifest, name):
            problems.append(
                f"{tokenizer_folder / SPEC_NAME}: {name} {spec.get(name)}, the manifest says {getattr(manifest, name)}"
            )
    try:
        if read_json(special_path) != manifest.special_tokens:
            problems.append(f"{special_path}: differs from the manifest's special_tokens")
    except (OSError, ValueError) as error:
        problems.append(f"{special_path}: cannot read: {error}")
    return problems + _check_end_of_turn(tokenizer_folder, tokenizer, manifest)


def _check_end_of_turn(folder: Path, tokenizer: Tokenizer, manifest: DataManifest) -> list[str]:
    """Compare the manifest's eos_token_id with the id of the chat format's end-of-turn token. Return the problems.

    The tokenizer's own files cannot be used, because they name another end-of-text token.
    """
    try:
        chat_format = CHAT_FORMATS.get(manifest.chat_format) or read_template(folder / TEMPLATE_NAME, tokenizer)
    except ChatFormatError as error:
        return [str(error)]
    token_id = tokenizer.token_to_id(chat_format.end_of_turn)
    if token_id == manifest.eos_token_id:
        return []
    return [
        f"{folder}: {chat_format.end_of_turn} has id {token_id}, the manifest's eos_token_id is {manifest.eos_token_id}"
    ]


def strip_suffix(path: Path) -> Path:
    """Return the path that all files of a split start with, given this path or the path of one of its shard files."""
    name = path.name
    for suffix in (".bin", ".idx", "-text", "-role"):
        name = name.removesuffix(suffix)
    return path.with_name(name)
