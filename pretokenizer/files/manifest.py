"""`manifest.json`: what a folder of shards holds, and what it was built from. (SHARED)

    manifest = DataManifest.load("output/oasst_top1_llama2")
    manifest.vocab_size, manifest.pad_token_id, manifest.eos_token_id     # the integers a trainer needs

The trainer never loads a tokenizer. It reads these numbers, and compares `tokenizer_fingerprint` with the fingerprint
in its checkpoint.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretokenizer.config.yaml_config import ConfigError, from_mapping
from pretokenizer.files.checksums import FileRecord
from pretokenizer.files.publish import read_json_object, write_json_atomic

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
DIGEST_KEY = "manifest_sha256"
"""Key that holds the SHA-256 of all other keys of the manifest, because no other file has a checksum of it."""


class ManifestError(ValueError):
    """A manifest that is missing, damaged, or of another version."""


@dataclass(frozen=True)
class DatasetCounts:
    """Numbers of documents and tokens of one data set in one split."""

    name: str
    """Name of the data set in the section."""
    documents: int
    """Number of documents that the split holds."""
    tokens: int
    """Number of tokens in these documents."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Number of documents that were drawn but left out, by reason."""


@dataclass(frozen=True)
class SplitManifest:
    """Numbers of documents and tokens of one split, train or val, in total and for each data set.

    The split's shards are `<prefix>-text.{bin,idx}` and `<prefix>-role.{bin,idx}` beside the manifest.
    """

    prefix: str
    documents: int
    tokens: int
    datasets: list[DatasetCounts] = field(default_factory=list)


@dataclass(frozen=True)
class DataManifest:
    """Description of a folder of shards. Every field is a key of `manifest.json`."""

    chat_format: str
    """Name of the chat format: a key of CHAT_FORMATS, or `jinja`."""
    vocab_size: int
    """Number of tokens in the vocabulary, with added tokens and without padding. Every token id is below it."""
    pad_token_id: int
    eos_token_id: int
    """The id of the chat format's end-of-turn token, such as <|im_end|>, at which a reply ends."""
    bos_token_id: int | None
    tokenizer_fingerprint: str
    """SHA-256 of the table of ids and tokens; see `Tokenizer.fingerprint`."""
    special_tokens: dict[str, int]
    splits: dict[str, SplitManifest]
    """The splits by name: `train` and `val`. A split without documents is absent."""
    section: dict[str, Any] = field(default_factory=dict)
    """The complete configuration of the build."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages on which the bytes of the output may depend, by name."""
    inputs: dict[str, FileRecord] = field(default_factory=dict)
    """Path -> size and checksum of each file that the build read."""
    outputs: dict[str, FileRecord] = field(default_factory=dict)
    """Path inside the folder -> size and checksum of each file but the manifest."""
    reports: dict[str, Any] = field(default_factory=dict)
    """Encoders, warnings, bad records, duplicates, contamination and input files, as stats.json has them."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def load(cls, folder: str | Path) -> "DataManifest":
        """Return the manifest in `folder/manifest.json` without verifying its checksum.

        Raises ManifestError naming the file.
        """
        path = Path(folder) / MANIFEST_NAME
        raw = _read(path)
        if raw.get("format_version") != FORMAT_VERSION:
            found = raw.get("format_version")
            raise ManifestError(
                f"{path}: format_version {found!r}, but this program reads {FORMAT_VERSION}; build the data again"
            )
        raw.pop(DIGEST_KEY, None)
        try:
            return from_mapping(cls, raw, str(path))
        except ConfigError as error:
            raise ManifestError(str(error)) from None

    def save(self, folder: str | Path) -> None:
        """Write `folder/manifest.json`, with a checksum of itself. publish_folder flushes the file to disk later."""
        mapping = dataclasses.asdict(self)
        write_json_atomic(Path(folder) / MANIFEST_NAME, {**mapping, DIGEST_KEY: _digest(mapping)}, sync=False)


def check_digest(folder: str | Path) -> list[str]:
    """Compare `folder/manifest.json` with the checksum that it holds of itself.

    Return the problems, or [] when it agrees. Raises ManifestError when the file cannot be read.
    """
    path = Path(folder) / MANIFEST_NAME
    raw = _read(path)
    recorded = raw.pop(DIGEST_KEY, None)
    if recorded is None:
        return [f"{path}: has no {DIGEST_KEY}, so it cannot be verified; build the data again"]
    return [] if recorded == _digest(raw) else [f"{path}: was changed after the build: {DIGEST_KEY} differs"]


def _read(path: Path) -> dict[str, Any]:
    raw = read_json_object(path, ManifestError)
    if raw is None:
        raise ManifestError(
            f"{path}: missing; {path.parent} is not a finished output of `python -m pretokenizer build`"
        )
    return raw


def _digest(mapping: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's keys and values as compact JSON with sorted keys.

    The digest is the same before the manifest is written and after it is read back.
    """
    read_back = json.loads(json.dumps(mapping))  # turns other keys into text before they are sorted
    return hashlib.sha256(json.dumps(read_back, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
