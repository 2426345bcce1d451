"""The receipt of an exported folder names any changed byte in the chain from the records to the export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from checkpoint_convert.huggingface.lineage import ancestors, record_source
from checkpoint_convert.verify.receipt import Link, check_receipt, renew_sums, write_receipt
from pretokenizer.files.checksums import sha256_file, write_sha256sums

SHARD_FILES = [
    "mix-train-text.bin",
    "mix-train-text.idx",
    "mix-train-role.bin",
    "mix-train-role.idx",
    "special_tokens.json",
]
CHECKPOINT_FILES = ["__0_0.distcp", ".metadata", "metadata.json", "common.pt", "tokenizer/tokenizer.model"]
CONFIGURATIONS = ["train_config.yaml", "model_config.yaml"]
EXPORTED_FILES = [
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "README.md",
]


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Return a folder with hf/, stage2/, stage1/, data/ and records.jsonl that name one another."""
    records = tmp_path / "records.jsonl"
    records.write_text("{}")
    data = tmp_path / "data"
    data.mkdir()
    for name in SHARD_FILES:
        (data / name).write_bytes(name.encode())
    sums = {
        "outputs": {name: {"sha256": sha256_file(data / name)} for name in SHARD_FILES},
        "inputs": {str(records): {"sha256": sha256_file(records)}},
    }
    (data / "manifest.json").write_text(json.dumps(sums))
    for name, load in (("stage1", None), ("stage2", "stage1")):
        folder = tmp_path / name / "iter_0000004"
        folder.mkdir(parents=True)
        settings = {"train_data_path": [str(data / "mix-train")], "load": load and str(tmp_path / load)}
        (folder / "train_config.yaml").write_text(yaml.safe_dump(settings))
        (folder / "model_config.yaml").write_text("family: llama")
        (folder / "tokenizer").mkdir()
        for file in CHECKPOINT_FILES:
            (folder / file).write_bytes(file.encode())
        write_sha256sums(folder)
        (tmp_path / name / "latest_checkpointed_iteration.txt").write_text("4")
    (tmp_path / "hf").mkdir()
    for name in EXPORTED_FILES:
        (tmp_path / "hf" / name).write_bytes(b"contents of " + name.encode())
    write_sha256sums(tmp_path / "hf")
    write_receipt(tmp_path / "hf", tmp_path / "stage2" / "iter_0000004")
    return tmp_path


def test_a_receipt_holds_the_whole_chain(chain: Path) -> None:
    assert [path.parent.name for path in ancestors(chain / "stage2" / "iter_0000004")] == ["stage2", "stage1"]
    links = [Link(**link) for link in json.loads((chain / "hf" / "receipt.json").read_text())["links"]]
    assert [link.kind for link in links] == ["model", "checkpoint", "shards", "checkpoint", "shards"]
    outcome = check_receipt(chain / "hf")
    assert (len(outcome.sound), outcome.missing, outcome.problems) == (5, [], [])


@pytest.mark.parametrize(
    "name",
    [
        "records.jsonl",
        "data/manifest.json",
        *(f"data/{name}" for name in SHARD_FILES),
        *(f"stage1/iter_0000004/{name}" for name in (*CHECKPOINT_FILES, *CONFIGURATIONS, "SHA256SUMS")),
        *(f"stage2/iter_0000004/{name}" for name in (*CHECKPOINT_FILES, *CONFIGURATIONS, "SHA256SUMS")),
        *(f"hf/{name}" for name in (*EXPORTED_FILES, "SHA256SUMS")),
    ],
)
def test_one_changed_byte_is_named(chain: Path, name: str) -> None:
    path = chain / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert str(path) in " ".join(check_receipt(chain / "hf").problems)


def test_missing_files_are_reported_and_are_no_error(chain: Path) -> None:
    (chain / "records.jsonl").unlink()
    outcome = check_receipt(chain / "hf")
    assert str(chain / "records.jsonl") in outcome.missing and outcome.problems == []


def test_a_folder_without_receipt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"receipt\.json: missing; name a folder that to-hf wrote"):
        check_receipt(tmp_path)


def test_the_links_continue_across_an_exported_folder(chain: Path) -> None:
    release, run, hf = chain / "again" / "release", chain / "stage3" / "iter_0000002", chain / "hf3"
    for folder in (release, run, hf):
        folder.mkdir(parents=True)
    (chain / "again" / "latest_checkpointed_iteration.txt").write_text("release")
    record_source(release, chain / "hf")
    (run / "train_config.yaml").write_text(yaml.safe_dump({"load": str(chain / "again")}))
    for folder in (release, run, hf):
        write_sha256sums(folder)
    write_receipt(hf, run)
    record = json.loads((hf / "receipt.json").read_text())
    assert record["lineage"] == ["stage3", "again", "hf", "stage2", "stage1"]
    kinds = ["model", "checkpoint", "checkpoint", "model", "checkpoint", "shards", "checkpoint", "shards"]
    assert [link["kind"] for link in record["links"]] == kinds
    assert record["links"][3]["folder"] == str(chain / "hf")
    (chain / "hf" / "model.safetensors").write_bytes(b"Weights")
    assert [problem.partition(":")[0] for problem in check_receipt(hf).problems] == [
        str(chain / "hf/model.safetensors")
    ]


def test_ancestors_follow_a_run_that_resumed_its_own_folder(chain: Path) -> None:
    later = chain / "stage2" / "iter_0000008"
    later.mkdir()
    (later / "train_config.yaml").write_text(yaml.safe_dump({"load": str(chain / "stage2")}))
    assert [path.parent.name for path in ancestors(later)] == ["stage2", "stage1"]


def test_renewed_sums_cover_new_files_and_still_find_a_changed_weight(chain: Path) -> None:
    (chain / "hf" / "README.md").write_text("card")
    (chain / "hf" / "model.safetensors").write_bytes(b"Weights")
    renew_sums(chain / "hf", ["README.md"])
    assert [problem.partition(":")[0] for problem in check_receipt(chain / "hf").problems] == [
        str(chain / "hf" / "model.safetensors")
    ]
    (chain / "hf" / "README.md").write_text("Card")
    assert len(check_receipt(chain / "hf").problems) == 2
