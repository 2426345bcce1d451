"""Find the files of a data set: in a folder, or on the Hugging Face hub (`pip install 'oasst-megatron[hub]'`).

Files on the hub are downloaded at a pinned revision and read like local ones. No loading script of the hub is run.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pretokenizer.config.settings import DatasetEntry
from pretokenizer.records.choose_files import (
    DataMissingError,
    DatasetFiles,
    choose_by_split,
    choose_by_stem,
    list_folder,
    nothing_found,
)
from pretokenizer.records.file_names import SUFFIXES_IN_WORDS


class HubFiles(NamedTuple):
    """The files of a data set on the Hugging Face hub."""

    repo_id: str
    revision: str
    """Commit to download, or a branch if no commit is pinned. The key `revision` of a data set overrides it."""
    patterns: tuple[str, ...]
    """Glob patterns of the files to download."""


@dataclass(frozen=True)
class FileLayout:
    """How to choose the files that a data set reads."""

    input_file_path: str | None = None
    """A file or a glob pattern to read instead of the data set's folder."""
    stems: tuple[str, ...] = ()
    """Stems (names without suffixes and shard number) of the train files in order. Empty: files are chosen by split."""
    val_stems: tuple[str, ...] = ()
    """Stems (names without suffixes and shard number) of the val files."""
    needs_stems: bool = False
    """Whether it is an error if no file has one of `stems`. Otherwise the splits in the file names decide."""
    hub: HubFiles | None = None


def locate_files(entry: DatasetEntry, layout: FileLayout, data_dir: Path, cache_dir: str | None) -> DatasetFiles:
    """Return the files of a data set that a build reads, downloading them from the hub if necessary.

    They come from the first of these places that is given or exists: `input_file_path`, the folder (`data_path`, else
    `data_dir/<name>`), the hub. Raises DataMissingError if there are none, or if their names do not show which to read.
    """
    folder = Path(entry.data_path).expanduser() if entry.data_path else data_dir / entry.name
    if layout.input_file_path:
        return DatasetFiles(_named_files(entry, layout.input_file_path, data_dir, folder))
    if folder.is_file():
        return DatasetFiles((folder,))
    if folder.is_dir():
        return _choose(entry, layout, folder)
    if layout.hub is None:
        raise DataMissingError(
            f"{entry.name}: no folder {folder}; put your files there ({SUFFIXES_IN_WORDS}), or name one file with"
            " input_file_path"
        )
    hub = layout.hub._replace(revision=entry.revision) if entry.revision else layout.hub
    return _choose(entry, layout, fetch(hub, folder, cache_dir))


def fetch(hub: HubFiles, folder: Path, cache_dir: str | None) -> Path:
    """Download the files of `hub` and return the local folder that holds them.

    Raises DataMissingError, which names `folder` as the place for files that the user downloads by hand.
    """
    by_hand = f"put the files of huggingface.co/datasets/{hub.repo_id} ({', '.join(hub.patterns)}) into {folder}"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise DataMissingError(
            f"no folder {folder}: {by_hand}; or run pip install 'oasst-megatron[hub]' to download them automatically"
        ) from None
    try:
        path = snapshot_download(
            hub.repo_id,
            repo_type="dataset",
            revision=hub.revision,
            allow_patterns=list(hub.patterns),
            cache_dir=cache_dir,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataMissingError(f"no folder {folder}, and the download failed ({reason}): {by_hand}") from None
    commit = Path(path).name  # snapshot_download returns .../snapshots/<commit>
    if commit != hub.revision:
        print(
            f"note: {hub.repo_id}: {hub.revision!r} is commit {commit} today; `revision: {commit}` pins it",
            file=sys.stderr,
        )
    return Path(path)


def _named_files(entry: DatasetEntry, pattern: str, data_dir: Path, folder: Path) -> tuple[Path, ...]:
    """Return the file that `pattern` names, or the files that match it as a glob pattern.

    A relative pattern is looked up in `data_dir`, then in `folder`. Raises DataMissingError if no file matches.
    """
    given = Path(pattern).expanduser()
    candidates = [given] if given.is_absolute() else [data_dir / pattern, folder / pattern]
    for candidate in candidates:
        if candidate.is_file():
            return (candidate,)
        anchor = Path(candidate.anchor)
        if matched := [path for path in sorted(anchor.glob(str(candidate.relative_to(anchor)))) if path.is_file()]:
            return tuple(matched)
    places = " nor ".join(map(str, candidates))
    raise DataMissingError(f"{entry.name}: no file {places}; put it there, or set input_file_path or --data_dir")


def _choose(entry: DatasetEntry, layout: FileLayout, folder: Path) -> DatasetFiles:
    """Choose the files of a folder that a data set reads.

    Subfolders count, because hub repositories have data/ or main/. Raises DataMissingError if no file has records, or
    the names do not show which files to read.
    """
    files = list_folder(folder)
    if not files.records:
        raise nothing_found(entry.name, files)
    if layout.stems and not entry.split:
        chosen = choose_by_stem(files, layout.stems, layout.val_stems, entry.name)
        if chosen.train:
            return chosen
        if layout.needs_stems:
            raise DataMissingError(
                f"{entry.name}: no file {' or '.join(layout.stems)}.jsonl (or .parquet ...) in {folder};"
                f" found {files.relative(files.records)}"
            )
    return choose_by_split(files, entry.split, entry.name)
