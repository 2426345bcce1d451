"""inspect_shard.py"""

from pathlib import Path

import numpy as np
import pytest

from pretokenizer.chat.roles import Role
from pretokenizer.files.shard import ShardError
from pretokenizer.output.inspect_documents import inspect_shard
from pretokenizer.reports.markdown import fence_of
from pretokenizer.reports.render import render_document
from pretokenizer.tokenizer.base import Tokenizer
from tests.pretokenizer.conftest import BuildToy, write_jsonl


@pytest.fixture
def prefix(build_toy: BuildToy, tmp_path: Path) -> str:
    """A shard of two conversations, the second with a reply without loss."""
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    reply = {"role": "assistant", "content": "a\nb"}
    records = [{"messages": [*talk, reply]}, {"messages": [*talk[1:], {**reply, "train": False}, *talk[1:], reply]}]
    write_jsonl(tmp_path / "data/messages/train.jsonl", records)
    _, folder = build_toy([{"messages": {"val_split": 0}}])
    return str(folder / "toy-train")


def test_plain(prefix: str, tmp_path: Path) -> None:
    lines = list(inspect_shard(prefix, 2, 0, plain=True))
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


def test_colours(prefix: str) -> None:
    lines = list(inspect_shard(prefix + "-text", 1, 1, plain=False))
    assert "\033[31m<|im_start|>assistant\033[0m" in lines[3] and "\033[32;4m<|im_start|>assistant\033[0m" in lines[3]


@pytest.mark.parametrize("plain", [True, False])
def test_control_characters_of_the_data_are_shown_escaped(plain: bool, sample_tokenizer: Tokenizer) -> None:
    (ids,) = sample_tokenizer.encode_plain_batch(["a\x1b]0;t\x07\x9b\x7f\x00\tb\nc"])
    shown = render_document(np.array(ids), np.full(len(ids), Role.USER), sample_tokenizer, plain)
    expected = "a\\x1b]0;t\\x07\\x9b\\x7f\\x00\tb"
    assert expected in shown and shown.count("\x1b") == (0 if plain else 4)


def test_the_fence_is_longer_than_what_it_holds() -> None:
    assert [fence_of(text) for text in ("a ~ b", "~~~~~\n~~", "~~~~")] == ["~~~~", "~~~~~~", "~~~~~"]


def test_bad_requests(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="--start 2, but there are 2 documents"):
        list(inspect_shard(prefix, 1, 2, plain=True))
    with pytest.raises(ShardError, match=r"none-text\.idx: cannot open"):
        list(inspect_shard(str(tmp_path / "none"), 1, 0, plain=True))
