"""What the name of a file says: whether the file holds records, and which split it belongs to."""

from pathlib import Path

RECORD_SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")


def is_record_file(path: Path) -> bool:
    """Return whether `path` is a visible file whose name ends in one of RECORD_SUFFIXES."""
    return path.is_file() and path.name.lower().endswith(RECORD_SUFFIXES) and not path.name.startswith(".")


def stem_of(path: Path) -> str:
    """Return the name without suffixes and shard number: `train-00000-of-00002.parquet` gives `train`."""
    return path.name.split(".")[0].split("-0")[0].lower()
