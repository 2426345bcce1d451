"""check_shard.py: every kind of damage is found and named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretokenizer.check_shard import check_path
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl


@pytest.fixture
def folder(build_toy: BuildToy, tmp_path: Path) -> Path:
    """A finished build of five documents."""
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(4))
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(1))
    return build_toy(["gsm8k"])[1]


def overwrite(path: Path, position: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[position : position + len(data)] = data
    path.write_bytes(bytes(content))


def test_sound_output(folder: Path) -> None:
    problems, line = check_path(folder)
    assert problems == [] and ": sound: " in line and "train 4 documents" in line
    problems, line = check_path(folder / "toy-train")
    assert problems == [] and line.endswith(" tokens") and "4 documents" in line
    assert check_path(folder / "toy-train-text.bin")[0] == []


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed byte": (lambda f: overwrite(f / "stats.md", 3, b"X"), "stats.md: contents differ from the manifest"),
    "a missing file": (lambda f: (f / "toy-val-role.bin").unlink(), "toy-val-role.bin: missing"),
    "a longer file": (lambda f: (f / "stats.json").open("a").write("x"), "stats.json: "),
    "a truncated shard": (lambda f: (f / "toy-train-text.bin").write_bytes(b"12"), "toy-train-text.bin: 2 bytes"),
    "an id too large": (
        lambda f: overwrite(f / "toy-train-text.bin", 4, b"\xff\xff"),
        "token 2 has id 65535, vocabulary 3007",
    ),
    "an unknown role": (
        lambda f: overwrite(f / "toy-train-role.bin", 6, b"\x09\x00"),
        "token 3 has the unknown role 9",
    ),
    "lengths that differ": (
        lambda f: overwrite(f / "toy-train-role.idx", 34, np.array([3], "<i4").tobytes()),
        "toy-train-role.idx: document 0 has 3 roles",
    ),
    "another tokenizer": (
        lambda f: overwrite(f / "tokenizer/tokenizer_spec.json", 30, b"?"),
        "tokenizer/tokenizer_spec.json: contents differ",
    ),
}


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_damage_is_found(kind: str, folder: Path) -> None:
    damage, message = DAMAGE[kind]
    damage(folder)
    problems, _ = check_path(folder)
    assert any(message in problem for problem in problems), problems
    assert all(str(folder) in problem for problem in problems)


def test_counts_of_the_manifest_are_checked(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["documents"] = 9
    path.write_text(json.dumps(manifest))
    problems, _ = check_path(folder)
    assert any("the manifest says 9" in problem for problem in problems)


def test_what_is_no_output(tmp_path: Path) -> None:
    assert "manifest.json: missing" in check_path(tmp_path)[0][0]
    assert "x-text.idx: cannot open" in check_path(tmp_path / "x")[0][0]
