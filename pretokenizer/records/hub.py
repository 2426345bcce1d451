"""Fetching a data set's files from the Hugging Face hub, pinned to a revision (`pip install 'oasst-megatron[hub]'`).

The files come as the hub keeps them (parquet, json, jsonl) and are read like local ones; no loading script is run.
"""

import sys
from pathlib import Path

from pretokenizer.records.locate import DataMissingError
from pretokenizer.sources.source import HubFiles


def fetch(hub: HubFiles, folder: Path, cache_dir: str | None) -> Path:
    """A local folder with the files of `hub`. Raises DataMissingError saying both ways to get the data.

    `folder` is where they could be put by hand.
    """
    by_hand = f"put the files of huggingface.co/datasets/{hub.repo_id} ({', '.join(hub.patterns)}) into {folder}"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise DataMissingError(
            f"no folder {folder}: {by_hand}; or pip install 'oasst-megatron[hub]' to have them fetched"
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
        raise DataMissingError(f"no folder {folder}, and the hub does not answer ({reason}): {by_hand}") from None
    commit = Path(path).name  # of a snapshot
    if commit != hub.revision:
        print(
            f"note: {hub.repo_id}: {hub.revision!r} is commit {commit} today; `revision: {commit}` pins it",
            file=sys.stderr,
        )
    return Path(path)
