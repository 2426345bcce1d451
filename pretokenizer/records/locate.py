"""Finding a data set's files: in DATA_DIR, or on the hub, or saying both ways to get them."""

from dataclasses import dataclass
from pathlib import Path

from pretokenizer.config.settings import DatasetEntry
from pretokenizer.records.reader import RECORD_SUFFIXES, is_record_file
from pretokenizer.sources.source import Source, stem_of

HUB_METADATA = ("dataset_infos.json", "dataset_info.json", "state.json")
"""Files beside the records of a hub repository, or of a folder that `datasets` saved, that hold none."""


class DataMissingError(ValueError):
    """A data set whose files are nowhere; the message says how to get them."""


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one data set in reading order."""

    train: tuple[Path, ...]
    """All records, or those of the native train split."""
    val: tuple[Path, ...] = ()
    """Those of the native val split."""


def locate_files(entry: DatasetEntry, source: Source, data_dir: Path, cache_dir: str | None) -> DatasetFiles:
    """The files of a data set. Raises DataMissingError.

    In this order: the file that `input_file_path` names, the folder `data_dir/<name>`, the hub.
    """
    folder = Path(entry.data_path).expanduser() if entry.data_path else data_dir / entry.name
    if source.input_file_path:
        return DatasetFiles((_named_file(entry, source.input_file_path, data_dir, folder),))
    if folder.is_dir():
        return _choose(entry, source, folder)
    if source.hub is None:
        raise DataMissingError(
            f"{entry.name}: no folder {folder}; put {_suffixes()} files there, or name one file with input_file_path"
        )
    from pretokenizer.records.hub import fetch

    hub = source.hub._replace(revision=entry.revision) if entry.revision else source.hub
    return _choose(entry, source, fetch(hub, folder, cache_dir))


def _named_file(entry: DatasetEntry, path: str, data_dir: Path, folder: Path) -> Path:
    candidates = [Path(path).expanduser()] if Path(path).is_absolute() else [data_dir / path, folder / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = " nor ".join(map(str, candidates))
    raise DataMissingError(f"{entry.name}: no file {places}; put it there, or set input_file_path or --data_dir")


def _choose(entry: DatasetEntry, source: Source, folder: Path) -> DatasetFiles:
    """Files of a folder by their stems, below it too (hub folders have data/, main/)."""
    files = sorted(path for path in folder.rglob("*") if is_record_file(path) and path.name not in HUB_METADATA)
    if not files:
        raise DataMissingError(f"{entry.name}: no {_suffixes()} file in {folder}")
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        by_stem.setdefault(stem_of(path), []).append(path)
    if source.stems:
        chosen = [path for stem in source.stems for path in by_stem.get(stem, [])]
        if not chosen and source.split != "native":
            chosen = files
    else:
        chosen = by_stem.get("train", files)
    val = [path for stem in source.val_stems for path in by_stem.get(stem, [])]
    if not chosen:
        raise DataMissingError(f"{entry.name}: no file {' or '.join(source.stems)}.jsonl (or .parquet ...) in {folder}")
    return DatasetFiles(tuple(chosen), tuple(val))


def _suffixes() -> str:
    return ", ".join(RECORD_SUFFIXES)
