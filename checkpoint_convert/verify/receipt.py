"""`receipt.json` of an exported folder: SHA-256 sums that bind a model to its checkpoints, shards and input files.

    write_receipt(Path("my-model"), Path("checkpoints/stage2/iter_0000346"))
    check_receipt(Path("my-model"))          # python -m checkpoint_convert verify --receipt my-model

Each link names a folder and the file in it that lists the sums of the others: SHA256SUMS of a model or checkpoint,
manifest.json of shards. The receipt holds the sum of that list, so one changed byte anywhere breaks the chain. It also
holds the figures of one training iteration, which replay.py computes again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from checkpoint_convert.huggingface.lineage import RECEIPT, ancestors, imported_receipt, lineage, training_settings
from checkpoint_convert.verify.replay import Iteration, Replay, recorded_iteration, replay
from pretokenizer.files.checksums import sha256_file
from pretokenizer.files.publish import write_json_atomic, write_text_atomic

SUMS, MANIFEST = "SHA256SUMS", "manifest.json"


@dataclass(frozen=True)
class Link:
    """One folder that a receipt covers. A file in it lists the SHA-256 of its other files; the link has that file's."""

    kind: str
    """What the folder holds: `model`, `checkpoint` or `shards`."""
    folder: str
    """`.` for the exported folder itself, else the path that the user gave, relative to the working folder."""
    list_file: str
    """Name of the file in the folder that lists the SHA-256 of its other files."""
    sha256: str
    """SHA-256 of `list_file`."""


@dataclass(frozen=True)
class Outcome:
    """The result of check_receipt: folders and files that are unchanged, missing, or changed."""

    sound: list[str]
    """Folders in which no file differs from its SHA-256."""
    missing: list[str]
    """Folders and files that are not on this machine, so that they cannot be checked."""
    problems: list[str]
    """Files that differ from their SHA-256."""

    def lines(self) -> Iterator[str]:
        yield from (f"sound: {text}" for text in self.sound)
        yield from (f"not here: {text}" for text in self.missing)
        yield from (f"CHANGED: {text}" for text in self.problems)


def write_receipt(hf_dir: Path, checkpoint: Path, is_temporary: bool = False) -> None:
    """Write `hf_dir`/receipt.json for the model in `hf_dir`, its checkpoints and their shards.

    The folder's SHA256SUMS must be complete. `checkpoint` is the checkpoint that was exported. With `is_temporary`, the
    checkpoint is only a step in the conversion of another tool's checkpoint, so the receipt does not name it. If the
    first run of the chain started from another exported folder, the links of that folder's receipt are appended.
    """
    links = [_link("model", hf_dir, SUMS, ".")]
    chain = ancestors(checkpoint)
    for folder in [] if is_temporary else chain:
        links += [_link("checkpoint", folder, SUMS)] if (folder / SUMS).is_file() else []
        links += [_link("shards", shards, MANIFEST) for shards in shard_folders(folder)]
    own = [] if is_temporary else [checkpoint.resolve().parent.name]
    record = {
        "version": 1,
        "lineage": list(dict.fromkeys([*own, *lineage(checkpoint)])),
        "links": [asdict(link) for link in [*links, *_imported_links(chain[-1])]],
    }
    iteration = recorded_iteration(chain)
    write_json_atomic(hf_dir / RECEIPT, record | ({"replay": asdict(iteration)} if iteration else {}))


def _link(kind: str, folder: Path, list_file: str, shown: str | None = None) -> Link:
    return Link(kind, shown or str(folder), list_file, sha256_file(folder / list_file))


def _imported_links(release: Path) -> list[Link]:
    """Return the links in the receipt of the exported folder from which the checkpoint `release` was imported.

    In that receipt, `.` names the exported folder; the returned links hold its path instead. Return [] for a checkpoint
    that was not imported from a folder with a receipt.
    """
    origin, receipt = imported_receipt(release)
    links = [Link(**link) for link in receipt.get("links", [])]
    return [replace(link, folder=origin) if link.folder == "." else link for link in links]


def renew_sums(hf_dir: Path, names: Collection[str]) -> None:
    """Update the SHA-256 of the files `names` in `hf_dir`/SHA256SUMS, and the SHA-256 of SHA256SUMS in the receipt.

    Commands that add to the model card call this. The sums of all other files stay, so a changed weight is still found.
    A folder without SHA256SUMS is left alone.
    """
    sums = hf_dir / SUMS
    if not sums.is_file():
        return
    lines = [line for line in sums.read_text(encoding="utf-8").splitlines() if line.partition("  ")[2] not in names]
    lines += [f"{sha256_file(hf_dir / name)}  {name}" for name in names]
    lines.sort(key=lambda line: line.partition("  ")[2])
    old = sha256_file(sums)
    write_text_atomic(sums, "".join(line + "\n" for line in lines))
    if (hf_dir / RECEIPT).is_file():
        record = read_receipt(hf_dir)
        for link in record["links"]:
            if link["folder"] == "." and link["sha256"] == old:
                link["sha256"] = sha256_file(sums)
        write_json_atomic(hf_dir / RECEIPT, record)


def shard_folders(checkpoint: Path) -> list[Path]:
    """Return the folders of the shards on which a checkpoint was trained, if their manifest.json exists."""
    settings = training_settings(checkpoint)
    prefixes = [Path(str(word)) for key in ("data_path", "train_data_path") for word in settings.get(key, [])]
    return list(dict.fromkeys(prefix.parent for prefix in prefixes if (prefix.parent / MANIFEST).is_file()))


def read_receipt(hf_dir: Path) -> dict[str, Any]:
    """Return the contents of a folder's receipt.json. Raises ValueError for a folder without a readable receipt."""
    path = hf_dir / RECEIPT
    if not path.is_file():
        raise ValueError(f"{path}: missing; name a folder that to-hf wrote")
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for link in record["links"]:
            Link(**link)
        if record.get("replay"):
            Iteration(**record["replay"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is not a receipt: {error}") from None
    return record


def check_receipt(hf_dir: Path) -> Outcome:
    """Compare every file that a folder's receipt.json covers with its SHA-256.

    A file that is not on this machine counts as missing. Raises ValueError for a folder without a readable receipt.
    """
    outcome = Outcome([], [], [])
    for link in (Link(**link) for link in read_receipt(hf_dir)["links"]):
        _check_link(link, hf_dir if link.folder == "." else Path(link.folder), outcome)
    return outcome


def replay_receipt(hf_dir: Path) -> Replay:
    """Repeat the training iteration that a folder's receipt records, and compare its figures bitwise.

    A receipt may record none; the result then says that nothing was compared. Raises ValueError for an unreadable
    receipt.
    """
    recorded = read_receipt(hf_dir).get("replay")
    if not recorded:
        return Replay("not replayed: the receipt records no iteration that a CPU can repeat bitwise")
    return replay(Iteration(**recorded))


def _check_link(link: Link, folder: Path, outcome: Outcome) -> None:
    list_file = folder / link.list_file
    name = f"{link.kind} {folder}"
    if not list_file.is_file():
        outcome.missing.append(name)
        return
    before = len(outcome.problems)
    if sha256_file(list_file) != link.sha256:
        outcome.problems.append(f"{list_file}: differs from its sum in the receipt")
    else:
        count = 0
        for path, digest in listed_files(list_file):
            if not path.is_file():
                outcome.missing.append(str(path))
            elif sha256_file(path) != digest:
                outcome.problems.append(f"{path}: differs from its sum in {list_file}")
            else:
                count += 1
        name += f", {count} files"
    if len(outcome.problems) == before:
        outcome.sound.append(name)


def listed_files(list_file: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path, SHA-256) of each file that a SHA256SUMS or a manifest.json lists.

    A manifest names input files relative to the working folder.
    """
    text = list_file.read_text(encoding="utf-8")
    if list_file.name == SUMS:
        for line in text.splitlines():
            digest, _, name = line.partition("  ")
            yield list_file.parent / name, digest
        return
    manifest = json.loads(text)
    for name, entry in manifest["outputs"].items():
        yield list_file.parent / name, entry["sha256"]
    for name, entry in manifest["inputs"].items():
        yield Path(name), entry["sha256"]
