import json
from pathlib import Path

import pytest

from pretokenizer.files.checksums import FileRecord
from pretokenizer.files.manifest import DataManifest, DatasetCounts, ManifestError, SplitManifest, check_digest

MANIFEST = DataManifest(
    chat_format="chatml",
    vocab_size=32007,
    pad_token_id=32004,
    eos_token_id=32006,
    bos_token_id=None,
    tokenizer_fingerprint="f" * 64,
    special_tokens={"<|im_end|>": 32006},
    splits={"train": SplitManifest("P-train", 2, 9, [DatasetCounts("gsm8k", 2, 9, {"duplicate": 1})])},
    section={"rng_seed": 42, "datasets": [{"gsm8k": {"val_split": 0.1}}]},
    outputs={"P-train-text.bin": FileRecord(18, "0" * 64)},
)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    MANIFEST.save(tmp_path)
    assert DataManifest.load(tmp_path) == MANIFEST
    assert json.loads((tmp_path / "manifest.json").read_text())["eos_token_id"] == 32006


def test_the_checksum_of_the_manifest(tmp_path: Path) -> None:
    MANIFEST.save(tmp_path)
    assert check_digest(tmp_path) == []
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"rng_seed": 42', '"rng_seed": 43'))
    assert check_digest(tmp_path) == [f"{path}: was changed after the build: manifest_sha256 differs"]
    assert DataManifest.load(tmp_path).section["rng_seed"] == 43  # loading does not verify the checksum


def test_bad_manifests_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json: missing; .* is not a finished output"):
        DataManifest.load(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text("{")
    with pytest.raises(ManifestError, match=r"manifest\.json: cannot read"):
        DataManifest.load(tmp_path)
    path.write_text('{"format_version": 9}')
    with pytest.raises(ManifestError, match=r"format_version 9, .* reads 1"):
        DataManifest.load(tmp_path)
    MANIFEST.save(tmp_path)
    path.write_text(path.read_text().replace('"vocab_size": 32007', '"vocab_size": "many"'))
    with pytest.raises(ManifestError, match="vocab_size: expected a whole number, found 'many'"):
        DataManifest.load(tmp_path)
