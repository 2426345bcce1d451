"""`<prefix>_origin.npy`: the data set, the file and the record that each document of a shard comes from."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretokenizer.files.shard import ShardError


def origin_path(prefix: Path) -> Path:
    """Return the path of the file that holds the origins of a shard's documents, `<prefix>_origin.npy`."""
    return prefix.with_name(prefix.name + "_origin.npy")


def read_origins(path: Path, count: int) -> NDArray[np.int64] | None:
    """Return the origins of the `count` documents of a shard as an array (count, 3).

    Each row holds the index of the document's data set, of its file in the data set, and of its record in the file.
    Return None when the file does not exist. Raises ShardError when it is damaged.
    """
    if not path.is_file():
        return None
    try:
        origins: NDArray[np.int64] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ShardError(f"{path}: cannot read: {error}") from None
    if origins.shape != (count, 3) or origins.dtype != np.int64:
        raise ShardError(
            f"{path}: holds {origins.dtype} of shape {origins.shape}, expected int64 of shape ({count}, 3)"
        )
    return origins
