from pathlib import Path

import pytest

from pretokenizer.files.manifest import ManifestError
from pretokenizer.files.shard import ShardError
from pretokenizer.output.inspect_documents import inspect_path
from tests.pretokenizer.conftest import BuildToy, write_jsonl


@pytest.fixture
def prefix(build_toy: BuildToy, tmp_path: Path) -> Path:
    """Return the prefix of a shard with two conversations, of which the second has a reply without loss."""
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    reply = {"role": "assistant", "content": "a\nb"}
    records = [{"messages": [*talk, reply]}, {"messages": [*talk[1:], {**reply, "train": False}, *talk[1:], reply]}]
    write_jsonl(tmp_path / "data/messages/train.jsonl", records)
    _, folder = build_toy([{"messages": {"val_split": 0}}])
    return folder / "toy-train"


def test_plain(prefix: Path, tmp_path: Path) -> None:
    lines = list(inspect_path(prefix, 2, 0, plain=True))
    assert "2 documents" in lines[0] and "chatml" in lines[0]
    assert lines[2].startswith("--- document 0: ") and lines[2].endswith(
        f"from {tmp_path}/data/messages/train.jsonl record 1"
    )
    import re

    assert re.sub(r":\d+ ", " ", lines[3]) == (
        "[system <|im_start|>system\ns<|im_end|>\n][user <|im_start|>user\nq<|im_end|>\n]"
        "[assistant* <|im_start|>assistant\na\nb<|im_end|>\n]"
    )
    assert "[assistant_no_loss:" in lines[6] and "[assistant*:" in lines[6]


def test_colours(prefix: Path) -> None:
    lines = list(inspect_path(prefix.with_name("toy-train-text.bin"), 1, 1, plain=False))
    assert "\033[31m<|im_start|>assistant\033[0m" in lines[3] and "\033[32;4m<|im_start|>assistant\033[0m" in lines[3]


def test_a_folder_shows_every_shard(prefix: Path) -> None:
    lines = list(inspect_path(prefix.parent, 1, 1, plain=True))
    assert lines == list(inspect_path(prefix, 1, 1, plain=True))
    with pytest.raises(ManifestError, match=r"manifest\.json: missing"):
        list(inspect_path(prefix.parent / "tokenizer", 1, 0, plain=True))


def test_bad_requests(prefix: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"--start 2: .* has 2 documents"):
        list(inspect_path(prefix, 1, 2, plain=True))
    with pytest.raises(ShardError, match=r"none-text\.idx: cannot open"):
        list(inspect_path(tmp_path / "none", 1, 0, plain=True))
