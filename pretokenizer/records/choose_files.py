"""Choose the files of a folder that belong to the training split, and give a reason for each file left out.

The reports list all files with these reasons. It is an error if the file names do not identify the training split.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pretokenizer.records.file_names import (
    RECORD_SUFFIXES,
    SUFFIXES_IN_WORDS,
    SplitName,
    has_record_suffix,
    split_name,
    stem_of,
)

_METADATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
"""Metadata files of a hub repository or of `datasets.save_to_disk`. They hold no records."""
NO_SPLIT = "no split in its name"
HOW_TO_CHOOSE = "set `split:` to one of them, or `input_file_path:` to a file or a glob pattern"


class DataMissingError(ValueError):
    """The files of a data set cannot be found or chosen. The message says what to do."""


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one data set in reading order, and the files of its folder that are not used."""

    train: tuple[Path, ...]
    """Files of the train split. If the source splits records at random, these are all its files."""
    val: tuple[Path, ...] = ()
    """Files of the val split."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Path -> reason, for each file of the folder that is not used."""


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder and its subfolders."""

    folder: Path
    records: list[Path]
    """Files with records, sorted by path."""
    left_out: dict[str, str]
    """Path -> reason, for files without records."""

    def split_of(self, path: Path) -> SplitName:
        """Return the split of the data set, such as `train`, that the path of a file names."""
        return split_name(path.relative_to(self.folder))

    def relative(self, paths: Sequence[Path]) -> str:
        """Return up to five of `paths`, relative to the folder and joined by commas, for a message."""
        shown = ", ".join(str(path.relative_to(self.folder)) for path in paths[:5])
        return f"{shown} and {len(paths) - 5} more" if len(paths) > 5 else shown


def list_folder(folder: Path) -> FolderFiles:
    """Return the files of a folder and its subfolders, with a reason for each one that holds no records.

    Hidden files and folders never hold records. Raises DataMissingError for a folder in which `datasets.save_to_disk`
    saved a selection of rows.
    """
    records, left_out = [], {}
    arrow_files = {path.parent: _saved_files(path) for path in sorted(folder.rglob("state.json"))}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            if has_record_suffix(path.name):
                left_out[str(path)] = "hidden file or folder"
        elif path.name in _METADATA:
            left_out[str(path)] = "metadata"
        elif not has_record_suffix(path.name):
            left_out[str(path)] = "not a kind of file that holds records"
        elif path.suffix == ".arrow" and path.name not in arrow_files.get(path.parent, {path.name}):
            left_out[str(path)] = "not listed in state.json"
        elif path.suffix == ".arrow" and path.name.startswith("cache-"):
            left_out[str(path)] = "a cache of the library datasets"
        else:
            records.append(path)
    return FolderFiles(folder, records, left_out)


def _saved_files(state: Path) -> set[str]:
    """Return the names of the Arrow files that a state.json of `datasets.save_to_disk` lists.

    If the file is unreadable, return the names of all Arrow files beside it. Raises DataMissingError if only a
    selection of rows was saved, because the Arrow files then hold other rows too.
    """
    try:
        values = json.loads(state.read_text(encoding="utf-8"))
        if values.get("_indices_data_files") or values.get("_indices_files"):
            raise DataMissingError(f"{state}: a selection of rows; call flatten_indices() before save_to_disk()")
        return {str(file["filename"]) for file in values["_data_files"]}
    except (OSError, LookupError, TypeError, AttributeError, json.JSONDecodeError):
        return {path.name for path in state.parent.glob("*.arrow")}


def choose_by_stem(files: FolderFiles, stems: Sequence[str], val_stems: Sequence[str], name: str) -> DatasetFiles:
    """Choose the train files, which have one of `stems`, and the val files, which have one of `val_stems`.

    A stem is a file name without suffixes and shard number. The files are in the order of the stems. `train` of the
    result is empty if no file has one of `stems`. `name` is the data set's name, for messages. Raises DataMissingError
    if files of one stem are in several folders, because these may hold different data sets.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in files.records:
        by_stem[stem_of(path)].append(path)
    for stem in (*stems, *val_stems):
        if len({path.parent for path in by_stem[stem]}) > 1:
            raise DataMissingError(
                f"{name}: files of {stem} in several folders of {files.folder}: {files.relative(by_stem[stem])}; set"
                " `data_path:` to one of the folders"
            )
    train = [path for stem in stems for path in by_stem[stem]]
    val = [path for stem in val_stems for path in by_stem[stem]]
    names = ", ".join((*stems, *val_stems))
    others = {str(path): f"this data set reads {names}" for path in files.records if path not in (*train, *val)}
    return DatasetFiles(tuple(train), tuple(val), {**files.left_out, **others})


def choose_by_split(files: FolderFiles, wanted: str | None, name: str) -> DatasetFiles:
    """Choose the files of the split `wanted`. The default is the train split, or all files if no file name has a split.

    The chosen files are `train` of the result. `name` is the data set's name, for messages. Raises DataMissingError if
    `wanted` does not exist, if no split or several are for training, or if two chosen files differ in the suffix only.
    """
    splits = {path: files.split_of(path) for path in files.records}
    if wanted:
        chosen = [path for path, split in splits.items() if wanted in (split.label, split.full_label)]
        chosen = chosen or [path for path, split in splits.items() if wanted == split.kind]
        if not chosen:
            raise DataMissingError(f"{name}: no split {wanted!r} in {files.folder}; {_listed(files, splits)}")
    elif not any(split.kind for split in splits.values()):
        chosen = files.records
    else:
        chosen = [path for path, split in splits.items() if split.kind == "train"]
        if len({splits[path].full_label for path in chosen}) != 1:
            problem = "several splits for training" if chosen else "no file of a train split"
            raise DataMissingError(f"{name}: {problem} in {files.folder}; {_listed(files, splits)}; {HOW_TO_CHOOSE}")
    _refuse_copies(files, chosen, name)
    left_out = {
        str(path): f"split {splits[path].full_label}" if splits[path].kind else NO_SPLIT
        for path in files.records
        if path not in set(chosen)
    }
    return DatasetFiles(tuple(chosen), (), {**files.left_out, **left_out})


def _listed(files: FolderFiles, splits: dict[Path, SplitName]) -> str:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, split in splits.items():
        groups[split.full_label if split.kind else "no split"].append(path)
    return "it has " + "; ".join(f"{label}: {files.relative(paths)}" for label, paths in sorted(groups.items()))


def _refuse_copies(files: FolderFiles, chosen: Sequence[Path], name: str) -> None:
    """Raise DataMissingError if two chosen files differ only in their suffix, like a.jsonl and a.parquet."""
    first_of: dict[str, Path] = {}
    for path in chosen:
        suffix = max((s for s in RECORD_SUFFIXES if path.name.lower().endswith(s)), key=len)
        stem = str(path)[: -len(suffix)]
        if stem in first_of:
            raise DataMissingError(
                f"{name}: {files.relative([first_of[stem], path])} in {files.folder} look like the same records in two"
                " kinds of files; remove one, or set `input_file_path:`"
            )
        first_of[stem] = path


def nothing_found(name: str, files: FolderFiles) -> DataMissingError:
    """Return the error to raise for a folder that has no file with records."""
    found = f"; it has {', '.join(Path(path).name for path in list(files.left_out)[:5])}" if files.left_out else ""
    return DataMissingError(f"{name}: no file with records in {files.folder} ({SUFFIXES_IN_WORDS}){found}")
