"""SHARED, torch-free: the files of a checkpoint folder, and the order in which they become visible.

    CKPT_DIR/latest_checkpointed_iteration.txt     "500" or "release"; replaced, never rewritten in place
    CKPT_DIR/best_checkpointed_iteration.txt       the saved iteration of lowest validation loss
    CKPT_DIR/iter_0000500/                         renamed from .iter_0000500.staging once complete
        *.distcp .metadata metadata.json common.pt megatron-core's torch_dist files
        model_config.yaml                          the architecture (model_config.py)
        train_config.yaml  train_state.json        only in checkpoints of training runs
        tokenizer/                                 a copy of the pretokenizer's folder
        tokenizer/source/                          tokenizer files of the imported Hugging Face folder
        SHA256SUMS                                 checksums of every file above, written last
    CKPT_DIR/release/                              the same without training state: converted weights
        generation_config.json                     a copy from the Hugging Face folder

safe_pickle.py checks every pickle in such a folder against an allow-list before any code loads it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from megatron_train.checkpoint.recognize import foreign
from megatron_train.checkpoint.safe_pickle import UnsafePickleError, scan_pickles
from pretokenizer.files.checksums import verify_sha256sums, write_sha256sums
from pretokenizer.files.publish import publish_folder, set_aside, write_text_atomic

TRACKER = "latest_checkpointed_iteration.txt"
RELEASE = "release"
BEST = "best_checkpointed_iteration.txt"
MODEL_CONFIG = "model_config.yaml"
TRAIN_CONFIG = "train_config.yaml"
TRAIN_STATE = "train_state.json"
TOKENIZER_DIR = "tokenizer"
SOURCE_TOKENIZER_DIR = "tokenizer/source"
"""The tokenizer files of the imported Hugging Face folder, which an export writes back."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used or saved. The message names the file or folder and what to do."""


def folder_name(iteration: int | None) -> str:
    """Return the name of a checkpoint's folder: `iter_0000500` for iteration 500, and `release` for None."""
    return RELEASE if iteration is None else f"iter_{iteration:07d}"


def staging_folder(checkpoint_dir: Path, iteration: int | None) -> Path:
    """Return the path of the hidden folder into which the checkpoint of `iteration` is written before it is published.

    The folder is on the file system of the final one, so that a rename can publish it.
    """
    return checkpoint_dir / f".{folder_name(iteration)}.staging"


def publish_checkpoint(checkpoint_dir: Path, iteration: int | None, known: Mapping[Path, str] | None = None) -> Path:
    """Make the complete staging folder of `iteration` (None: release) the newest checkpoint, and return its final path.

    The function writes SHA256SUMS, renames the folder, and then names it in the tracker file; for a release, it writes
    the tracker file before the rename. `known` maps files to SHA-256 digests that need not be computed again.
    """
    staging, final = staging_folder(checkpoint_dir, iteration), checkpoint_dir / folder_name(iteration)
    write_sha256sums(staging, known)
    if iteration is None:  # if it is killed before the rename, the same command starts over
        write_text_atomic(checkpoint_dir / TRACKER, f"{RELEASE}\n")
    publish_folder(staging, final)
    if iteration is not None:
        write_text_atomic(checkpoint_dir / TRACKER, f"{iteration}\n")
    return final


def list_iterations(checkpoint_dir: Path) -> list[int]:
    """Return the iterations that have a published checkpoint in `checkpoint_dir`, in ascending order."""
    names = (re.fullmatch(r"iter_(\d{7,})", path.name) for path in checkpoint_dir.glob("iter_*"))
    return sorted(int(match.group(1)) for match in names if match)


def find_checkpoint(checkpoint_dir: str | Path, iteration: int | None = None) -> Path:
    """Return the folder of the checkpoint of `iteration`. With None, the tracker file names the checkpoint.

    `checkpoint_dir` may also be the path of one published checkpoint. Raises CheckpointError that names what is missing
    and what the folder holds.
    """
    root = Path(checkpoint_dir)
    if not root.exists():
        raise CheckpointError(f"{root}: no such checkpoint folder")
    if root.is_file():
        raise CheckpointError(f"{root} {foreign(root)}")
    if (root / MODEL_CONFIG).is_file() and (root / "SHA256SUMS").is_file():
        if iteration is not None and root.resolve().name != folder_name(iteration):
            raise CheckpointError(
                f"{root}: is one published checkpoint itself, not {folder_name(iteration)}; leave the iteration out or"
                " name the folder above it"
            )
        return root
    if what := foreign(root):
        raise CheckpointError(f"{root} {what}")
    present = [folder_name(i) for i in list_iterations(root)] + ([RELEASE] if (root / RELEASE).is_dir() else [])
    if iteration is not None:
        wanted = folder_name(iteration)
    elif (root / TRACKER).is_file():
        text = (root / TRACKER).read_text().strip()
        if text != RELEASE and not text.isdigit():
            raise CheckpointError(f"{root / TRACKER}: holds {text!r}; expected an iteration number or 'release'")
        wanted = RELEASE if text == RELEASE else folder_name(int(text))
    else:
        raise CheckpointError(
            f"{root}: has no {TRACKER}, so no checkpoint was published there; found {present or 'nothing'}"
        )
    if not (root / wanted).is_dir():
        raise CheckpointError(f"{root}: has no {wanted}; found {', '.join(present) or 'nothing'}")
    if what := foreign(root / wanted):
        raise CheckpointError(f"{root / wanted} {what}")
    return root / wanted


def tracked_folder(checkpoint_dir: Path) -> Path:
    """Return the checkpoint folder in `checkpoint_dir` that the tracker file names, or `release` without such a file.

    The checkpoints may be those of any Megatron tool. The folder need not exist.
    """
    tracker = checkpoint_dir / TRACKER
    name = tracker.read_text(encoding="utf-8").strip() if tracker.is_file() else RELEASE
    return checkpoint_dir / folder_name(int(name) if name.isdigit() else None)


def check_folder(folder: Path, part: int = 0, num_parts: int = 1) -> None:
    """Verify the SHA-256 checksums of a checkpoint's files, and check its pickles against the allow-list of imports.

    To share the work, each of `num_parts` ranks verifies one `part` of the files, counted from 0; part 0 also checks
    all pickles. Raises CheckpointError that names each damaged file or the first unsafe pickle, and when the folder
    has no SHA256SUMS.
    """
    if not (folder / "SHA256SUMS").is_file():
        raise CheckpointError(f"{folder}: has no SHA256SUMS, so its save did not complete; use another checkpoint")
    problems = verify_sha256sums(folder, part, num_parts)
    if problems:
        raise CheckpointError(f"{folder}: damaged: " + "; ".join(problems))
    try:
        if part == 0:
            scan_pickles(folder)
    except UnsafePickleError as error:
        raise CheckpointError(str(error)) from error


def retain_checkpoints(root: Path, newest: int, limit: int | None, best: int | None) -> None:
    """Record `best` as the best iteration, and remove all checkpoints except the best and the last `limit` (None: all).

    Checkpoints after the iteration `newest` always stay. They date from before the run went back to an earlier
    iteration, and this run replaces them when it reaches them.
    """
    saved = [iteration for iteration in list_iterations(root) if iteration <= newest]
    if best in saved:
        write_text_atomic(root / BEST, f"{best}\n")
    for iteration in saved[: -limit if limit else 0]:
        if iteration != best:
            aside = set_aside(root / folder_name(iteration))  # a partly removed folder must not keep its final name
            shutil.rmtree(aside or root / folder_name(iteration))


def remove_stale_staging(checkpoint_dir: Path) -> None:
    """Delete the staging folders and temporary files that an interrupted save left in `checkpoint_dir`.

    Only names that this module makes are touched.
    """
    for pattern in (".iter_*.staging", ".iter_*.replaced"):
        for path in checkpoint_dir.glob(pattern):
            _remove_tree(path)
    _remove_tree(checkpoint_dir / f".{RELEASE}.staging")
    for name in (TRACKER, BEST):
        for path in checkpoint_dir.glob(f".{name}.*.tmp"):
            path.unlink()


def _remove_tree(path: Path) -> None:
    """Delete a folder and its contents. A symbolic link, or a path that is not a folder, is left alone."""
    if not path.is_dir() or path.is_symlink():
        return
    for root, folders, files in os.walk(path, topdown=False):
        for file in files:
            (Path(root) / file).unlink()
        for folder in folders:
            (Path(root) / folder).rmdir()
    path.rmdir()
