"""`manifest.json`: what a folder of shards holds and how it came to be. (SHARED with the trainer.)

    manifest = DataManifest.load("output/oasst_top1_llama2")
    manifest.vocab_size, manifest.pad_token_id, manifest.eos_token_id     # the integers a trainer needs

The trainer never loads a tokenizer; it reads these numbers and compares `tokenizer_fingerprint` with its checkpoint's.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretokenizer.config.yaml_config import ConfigError, from_mapping
from pretokenizer.files.checksums import FileRecord
from pretokenizer.files.publish import read_json, write_json_atomic

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
DIGEST_KEY = "manifest_sha256"
"""Key with the SHA-256 of all the others: no other file has a sum of the manifest."""


class ManifestError(ValueError):
    """A manifest that is missing, damaged or of another version."""


@dataclass(frozen=True)
class DatasetCounts:
    """What one data set gave to one split."""

    name: str
    """Data set name as in the section."""
    documents: int
    """Documents written."""
    tokens: int
    """Tokens written."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Samples not written, by reason."""


@dataclass(frozen=True)
class SplitManifest:
    """One split (train or val): `<prefix>-text.{bin,idx}` and `<prefix>-role.{bin,idx}` in the manifest's folder."""

    prefix: str
    documents: int
    tokens: int
    datasets: list[DatasetCounts] = field(default_factory=list)


@dataclass(frozen=True)
class DataManifest:
    """The folder's description; every field is written to `manifest.json` under its own name."""

    chat_format: str
    """Name of the chat format, a key of CHAT_FORMATS, or `jinja`."""
    vocab_size: int
    """Unpadded, added tokens included: every token id is below it."""
    pad_token_id: int
    eos_token_id: int
    """The END-OF-TURN token of the chat format, e.g. the id of <|im_end|>: where a reply stops."""
    bos_token_id: int | None
    tokenizer_fingerprint: str
    """SHA-256 over the id -> token table, see pretokenizer/tokenizer/base.py."""
    special_tokens: dict[str, int]
    splits: dict[str, SplitManifest]
    """`train` and `val`, each only when it has documents."""
    section: dict[str, Any] = field(default_factory=dict)
    """The configuration as resolved."""
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, FileRecord] = field(default_factory=dict)
    outputs: dict[str, FileRecord] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    """Leak check, duplicates, decontamination, control tokens found in text, the tokenizer engine and its proof."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def load(cls, folder: str | Path) -> "DataManifest":
        """Read `folder/manifest.json`, whatever its own sum is. Raises ManifestError naming the file."""
        path = Path(folder) / MANIFEST_NAME
        raw = _read(path)
        if raw.get("format_version") != FORMAT_VERSION:
            found = raw.get("format_version")
            raise ManifestError(
                f"{path}: format_version {found!r}, this program reads {FORMAT_VERSION}; build the data again"
            )
        raw.pop(DIGEST_KEY, None)
        try:
            return from_mapping(cls, raw, str(path))
        except ConfigError as error:
            raise ManifestError(str(error)) from None

    def save(self, folder: str | Path) -> None:
        """Write `folder/manifest.json`; flushing to the disk is publish_folder's part."""
        mapping = dataclasses.asdict(self)
        write_json_atomic(Path(folder) / MANIFEST_NAME, {**mapping, DIGEST_KEY: _digest(mapping)}, sync=False)


def check_digest(folder: str | Path) -> list[str]:
    """What is wrong with the manifest's own sum. Raises ManifestError when it cannot be read."""
    path = Path(folder) / MANIFEST_NAME
    raw = _read(path)
    recorded = raw.pop(DIGEST_KEY, None)
    if recorded is None:
        return [f"{path}: has no {DIGEST_KEY}, so a change of it cannot be seen; build the data again"]
    return [] if recorded == _digest(raw) else [f"{path}: was changed after the build: {DIGEST_KEY} differs"]


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = read_json(path)
    except FileNotFoundError:
        raise ManifestError(
            f"{path}: missing; {path.parent} is not a finished output of `python -m pretokenizer build`"
        ) from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot read: {error}") from None
    if not isinstance(raw, dict):
        raise ManifestError(f"{path}: expected a JSON object")
    return raw


def _digest(mapping: dict[str, Any]) -> str:
    """Of the JSON without blanks, keys in order: the same for the mapping and for what is read back of it."""
    read_back = json.loads(json.dumps(mapping))  # keys that are no text become text before they are sorted
    return hashlib.sha256(json.dumps(read_back, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
