"""Fetch a model from the Hugging Face hub, and upload an exported folder.

    fetched(Path("ORG/NAME"))            # the folder of the downloaded snapshot
    check_hub("ORG/NAME")                # first: check library, token and name
    push(Path("HF_DIR"), "ORG/NAME")     # last: upload, and return the address

The token comes from HF_TOKEN or the hub's own login, never from the command line.
"""

from __future__ import annotations

import re
from pathlib import Path

from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.checkpoint.recognize import HUB_NAME

OTHER_FORMATS = ["*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.pth", "original/*"]
"""Files of a repository that the converter does not read."""


def fetched(folder: Path) -> Path:
    """Return `folder` if it exists. Else download the hub model ORG/NAME that it names, and return the snapshot.

    Without huggingface_hub, or for any other name, return `folder` unchanged; reading it then fails with a message that
    says how to get the model. Raises ConvertError with the hub's message.
    """
    if folder.exists() or not HUB_NAME.fullmatch(str(folder)):
        return folder
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HTTPError
    except ImportError:
        return folder
    try:
        return Path(snapshot_download(str(folder), ignore_patterns=OTHER_FORMATS))
    except (HTTPError, OSError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ConvertError(f"{folder}: no such folder, and the hub gives no such model: {reason}") from None


def check_hub(repository: str) -> None:
    """Check that an upload can start. Raises ConvertError for a bad repository name, or without library or token."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConvertError(f"--push_to_hub {repository}: expected ORG/NAME")
    try:
        from huggingface_hub import get_token
    except ImportError:
        raise ConvertError("--push_to_hub needs huggingface_hub: pip install 'oasst-megatron[hub]'") from None
    if not get_token():
        raise ConvertError("--push_to_hub needs a token: set HF_TOKEN in the environment, or run `hf auth login`")


def push(folder: Path, repository: str) -> str:
    """Upload all files of `folder` to a repository on the hub, and return its address.

    The repository is created if needed. Raises ConvertError with the hub's message.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # errors of its HTTP client, some of which are no OSError

    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload converted weights")
    except (HTTPError, OSError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ConvertError(f"{folder} is complete, but was not uploaded to {repository}: {reason}") from None
    return str(address)
