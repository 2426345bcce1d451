"""`check` finds and names every kind of damage to a build."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretokenizer.output.check import check_path
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl


@pytest.fixture
def folder(build_toy: BuildToy, tmp_path: Path) -> Path:
    """Return the folder of a finished build of five documents."""
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


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object], is_signed: bool = True) -> None:
    """Change manifest.json. With `is_signed`, update its checksum, so that only other comparisons find the change."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if is_signed:
        rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        manifest["manifest_sha256"] = hashlib.sha256(text.encode("ascii")).hexdigest()
    path.write_text(json.dumps(manifest))


def test_the_layout_of_a_manifest_does_not_matter(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: None)
    assert check_path(folder)[0] == []


UNSIGNED: dict[str, Callable[[dict[str, Any]], object]] = {
    "seed": lambda m: m["section"].update(rng_seed=7),
    "val split": lambda m: m["splits"].pop("val"),
    "eos": lambda m: m.update(eos_token_id=5),
    "input": lambda m: m["inputs"].update({key: {"bytes": 1, "sha256": "0"} for key in m["inputs"]}),
}


@pytest.mark.parametrize("kind", sorted(UNSIGNED))
def test_a_change_of_the_manifest_is_found(kind: str, folder: Path) -> None:
    edit_manifest(folder, UNSIGNED[kind], is_signed=False)
    message = f"{folder}/manifest.json: was changed after the build: manifest_sha256 differs"
    assert check_path(folder)[0][0] == message


def test_a_manifest_without_its_checksum_is_named(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.pop("manifest_sha256"), is_signed=False)
    assert check_path(folder)[0] == [
        f"{folder}/manifest.json: has no manifest_sha256, so it cannot be verified; build the data again"
    ]


SIGNED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "special token": (
        lambda m: m["special_tokens"].update({"<|im_end|>": 17}),
        "/special_tokens.json: differs from the manifest's special_tokens",
    ),
    "pad": (
        lambda m: m.update(pad_token_id=5),
        "/tokenizer/tokenizer_spec.json: pad_token_id 3004, the manifest says 5",
    ),
    "end of turn": (
        lambda m: m.update(eos_token_id=5),
        "/tokenizer: <|im_end|> has id 3006, the manifest's eos_token_id is 5",
    ),
    "format": (
        lambda m: m.update(chat_format="oasst"),
        "/tokenizer/tokenizer_spec.json: chat_format chatml, the manifest says oasst",
    ),
    "output left out": (lambda m: m["outputs"].pop("stats.md"), "/stats.md: is not among the manifest's outputs"),
}


@pytest.mark.parametrize("kind", sorted(SIGNED))
def test_the_manifest_is_compared_with_the_folder(kind: str, folder: Path) -> None:
    change, message = SIGNED[kind]
    edit_manifest(folder, change)
    assert f"{folder}{message}" in check_path(folder)[0]


def test_a_foreign_file_is_named(folder: Path) -> None:
    (folder / "tokenizer/notes.txt").write_text("mine")
    assert check_path(folder)[0] == [f"{folder}/tokenizer/notes.txt: is not among the manifest's outputs"]


def test_documents_moved_between_data_sets(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(3))
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    write_jsonl(tmp_path / "data/messages/train.jsonl", [{"messages": talk}] * 2)
    folder = build_toy(["gsm8k", {"messages": {"val_split": 0}}])[1]
    assert check_path(folder)[0] == []

    def move(manifest: dict[str, Any]) -> None:
        first, second = manifest["splits"]["train"]["datasets"]
        first["documents"], second["documents"] = 4, 1

    edit_manifest(folder, move)
    (problem,) = check_path(folder)[0]
    assert problem.startswith(f"{folder}/toy-train_origin.npy: gsm8k 3 documents with ")
    assert ", messages 2 documents with " in problem and ", the manifest says gsm8k 4 documents with " in problem


def test_inputs_are_compared_where_they_exist(folder: Path, tmp_path: Path) -> None:
    train, val = tmp_path / "data/gsm8k/train.jsonl", tmp_path / "data/gsm8k/test.jsonl"
    val.unlink()
    problems, line = check_path(folder)
    assert problems == [] and line.endswith(f"\nnote: these input files do not exist here and were not compared: {val}")
    overwrite(train, 3, b"X")
    assert check_path(folder)[0] == [f"{train}: contents differ from the manifest's sha256"]


def test_paths_that_are_no_output(tmp_path: Path) -> None:
    assert "manifest.json: missing" in check_path(tmp_path)[0][0]
    assert "x-text.idx: cannot open" in check_path(tmp_path / "x")[0][0]
