"""Read from a file's name whether the file holds records, and to which split of a data set it belongs."""

import re
from pathlib import PurePath
from typing import NamedTuple

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
COMPRESSION_SUFFIXES = (".gz", ".zst", ".xz", ".bz2")
TABLE_SUFFIXES = (".parquet", ".arrow")
RECORD_SUFFIXES = (
    *TEXT_SUFFIXES,
    *(text + compression for text in TEXT_SUFFIXES for compression in COMPRESSION_SUFFIXES),
    *TABLE_SUFFIXES,
)
SUFFIXES_IN_WORDS = (
    f"{', '.join(TEXT_SUFFIXES)} (plain or {', '.join(COMPRESSION_SUFFIXES)}), {', '.join(TABLE_SUFFIXES)}"
)
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SHARD = re.compile(r"[-_.]\d+([-_]of[-_]\d+(-[0-9a-f]{16})?)?$")
"""Shard number at the end of a stem, such as `-00000-of-00002`. The hub may append a hash to it."""


class SplitName(NamedTuple):
    """The split of a data set that the path of a file names."""

    kind: str
    """`train`, `validation` or `test`; "" if the path names no split."""
    label: str
    """The split's name in full: `train_sft` for `data/train_sft-00000-of-00002.parquet`."""
    folder: str = ""
    """The path's folders, without the folder that names the split: `main` for `main/train/0000.parquet`."""

    @property
    def full_label(self) -> str:
        """The label with its folder, e.g. `main/train`."""
        return f"{self.folder}/{self.label}" if self.folder else self.label


def has_record_suffix(name: str) -> bool:
    """Return whether a file name ends in one of RECORD_SUFFIXES, ignoring case."""
    return name.lower().endswith(RECORD_SUFFIXES)


def stem_of(path: PurePath) -> str:
    """Return a file name in lower case without suffixes and shard number: `train-0-of-2.parquet` gives `train`."""
    return _SHARD.sub("", path.name.split(".")[0]).lower()


def split_name(path: PurePath) -> SplitName:
    """Return the split that a path relative to the data set's folder names.

    A split in the file name takes precedence over one in a folder name.

    >>> split_name(PurePath("data/train_sft-00000-of-00002.parquet"))
    SplitName(kind='train', label='train_sft', folder='data')
    >>> split_name(PurePath("main/valid/0000.parquet")).full_label
    'main/valid'
    """
    name = path.name
    if has_record_suffix(name):
        name = name[: -len(max((s for s in RECORD_SUFFIXES if name.lower().endswith(s)), key=len))]
    folders = list(path.parts[:-1])
    if found := _split_in(name):
        return SplitName(*found, "/".join(folders))
    for position in reversed(range(len(folders))):
        if found := _split_in(folders[position], max_words=1):
            del folders[position]
            return SplitName(*found, "/".join(folders))
    return SplitName("", "", "/".join(folders))


def _split_in(name: str, max_words: int | None = None) -> tuple[str, str] | None:
    """Return (kind, label) if one of the first `max_words` words in a file's `name` names a split, else None.

    The label is that word and the words after it, without numbers: `test-en-00001` gives ("test", "test_en").
    """
    words = [word for word in re.split(r"[^a-z0-9]+", _SHARD.sub("", name.lower())) if word]
    for position, word in enumerate(words[:max_words]):
        kind = _SPLIT_WORDS.get(word.rstrip("0123456789"))
        if kind:
            further = [w for w in words[position + 1 :] if not w.isdigit()]
            return kind, "_".join([word.rstrip("0123456789"), *further])
    return None
