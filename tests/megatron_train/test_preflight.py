from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_train.checkpoint.folder import CheckpointError
from megatron_train.checkpoint.resume import Start
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.flags import config_from_settings
from megatron_train.config.settings import Data
from megatron_train.data.sft_dataset import training_samples
from megatron_train.preflight import (
    check_same_data,
    check_shards,
    check_targets,
    check_vocabulary,
    find_tokenizer,
    is_nothing_left,
    load_manifest,
    shard_prefixes,
)
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.checksums import FileRecord, sha256_file
from pretokenizer.files.manifest import DataManifest
from pretokenizer.files.shard import ShardError
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA

pytestmark = pytest.mark.usefixtures("one_rank")


def built(folder: Path, fingerprint: str = "f" * 64, vocab_size: int = 120, **manifest: Any) -> str:
    """Write a folder as the pretokenizer does, and return the prefix of its shard."""
    folder.mkdir()
    prefix = write_shard(folder / "p-train", toy_documents(6))
    files = {path.name: FileRecord(path.stat().st_size, sha256_file(path)) for path in sorted(folder.iterdir())}
    DataManifest(
        chat_format="chatml", vocab_size=vocab_size, pad_token_id=1, eos_token_id=2, bos_token_id=None,
        tokenizer_fingerprint=fingerprint, special_tokens={}, splits={}, outputs=files, **manifest,
    ).save(folder)  # fmt: skip
    return prefix


def data_of(*train: str, valid: tuple[str, ...] = ()) -> Data:
    return config_from_settings({"train_data_path": train, "valid_data_path": valid, "seq_length": 48}, "t").data


def test_the_manifest_beside_the_first_training_shard(tmp_path: Path) -> None:
    prefix = built(tmp_path / "data")
    manifest, folder = load_manifest(data_of(prefix))
    assert folder == tmp_path / "data"
    assert manifest is not None
    assert (manifest.vocab_size, manifest.pad_token_id) == (120, 1)


def test_shards_of_other_tools_are_read_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = write_shard(tmp_path / "p", toy_documents(3))
    assert load_manifest(data_of(prefix)) == (None, None)
    assert f"warning: {tmp_path} has no manifest.json: the vocabulary is not checked" in capsys.readouterr().err
    check_shards(data_of(prefix))


def test_data_of_two_tokenizers_is_refused(tmp_path: Path) -> None:
    first, second = built(tmp_path / "one"), built(tmp_path / "two", fingerprint="e" * 64)
    expected = f"{tmp_path}/two and {tmp_path}/one were tokenized with different tokenizers"
    for data in (data_of("1", first, "1", second), data_of(first, valid=(f"name={second}",))):
        with pytest.raises(CheckpointError, match=expected):
            load_manifest(data)


def test_every_prefix_once_and_training_first() -> None:
    data = data_of("1", "a/x", "2", "b/y", valid=("n=c/z", "a/x"))
    assert shard_prefixes(data) == ["a/x", "b/y", "c/z"]


@pytest.mark.parametrize("name", ["text.bin", "text.idx", "role.bin", "role.idx"])
@pytest.mark.parametrize("place", ["train", "valid"])
def test_one_flipped_bit_is_named(name: str, place: str, tmp_path: Path) -> None:
    first, second = built(tmp_path / "one"), built(tmp_path / "two")
    data = data_of(first, valid=(second,))
    check_shards(data)
    path = tmp_path / ("one" if place == "train" else "two") / f"p-train-{name}"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ShardError, match=f"{path}: contents differ from the checksum in manifest.json; copy the file"):
        check_shards(data)


def test_more_tokens_than_the_model_has_rows(tmp_path: Path) -> None:
    manifest, _ = load_manifest(data_of(built(tmp_path / "data", vocab_size=121)))
    with pytest.raises(CheckpointError, match=r"121 token ids, the model 120 vocabulary rows; set vocab_size: 121 in"):
        check_vocabulary(manifest, LLAMA, None)
    with pytest.raises(CheckpointError, match=r"convert the base model with the data's tokens \(from-hf --vocab_extra"):
        check_vocabulary(manifest, LLAMA, tmp_path)
    check_vocabulary(None, LLAMA, None)


def test_the_checkpoints_tokenizer_must_be_the_datas(tmp_path: Path) -> None:
    manifest, _ = load_manifest(data_of(built(tmp_path / "data")))
    spec = tmp_path / "iter_0000001" / "tokenizer" / "tokenizer_spec.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"fingerprint": "f" * 64}))
    check_vocabulary(manifest, LLAMA, tmp_path / "iter_0000001")
    spec.write_text(json.dumps({"fingerprint": "0" * 64}))
    with pytest.raises(CheckpointError, match=f"tokenized with another tokenizer than {spec.parent}"):
        check_vocabulary(manifest, LLAMA, tmp_path / "iter_0000001")


def test_the_datas_tokenizer_goes_into_checkpoints_instead_of_the_loaded_one(tmp_path: Path) -> None:
    data, load = tmp_path / "data", tmp_path / "load"
    assert find_tokenizer(data, load) == {}
    (load / "tokenizer").mkdir(parents=True)
    assert find_tokenizer(data, load) == {"tokenizer": load / "tokenizer"}
    (data / "tokenizer").mkdir(parents=True)
    (load / "tokenizer" / "source").mkdir()
    assert find_tokenizer(data, load) == {
        "tokenizer": data / "tokenizer",
        "tokenizer/source": load / "tokenizer" / "source",
    }
    assert find_tokenizer(data, None) == {"tokenizer": data / "tokenizer"}


def test_a_resumed_run_is_warned_of_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_of(write_shard(tmp_path / "p", toy_documents(6)))
    state = check_same_data(TrainState(), training_samples(data, 6, 0))
    assert check_same_data(state, training_samples(data, 6, 0)) == state
    assert capsys.readouterr().err == ""
    other = data_of(write_shard(tmp_path / "q", toy_documents(7)))
    assert check_same_data(state, training_samples(other, 6, 0)).data_fingerprint != state.data_fingerprint
    assert "the training shards differ from those of the checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_roles": ("context",)}, "none of the 40 training documents has a token of loss_roles \\(context\\)"),
        (
            {"seq_length": 2},
            "none of the 40 .* within seq_length 2 and 40 documents are longer, .*larger --seq_l",
        ),
        ({"seq_length": 3}, "only 2 of the 40 .* within seq_length 3 and 38 documents are longer, .* --overlong split"),
        ({"seq_length": 3, "overlong": "drop"}, None),
        ({"seq_length": 3, "overlong": "split"}, None),
        ({"seq_length": 4}, None),
    ],
)
def test_data_with_almost_no_target_is_refused(settings: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    documents = [([5, 6, 7, 8], [1, 1, 1, 2])] * 2 + [([5, 6, 7, 8, 9], [1, 1, 1, 1, 2])] * 38
    data = replace(data_of(write_shard(tmp_path / "p", documents)), **settings)
    with pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext():
        check_targets(data, training_samples(data, 4, 0))


def test_a_finished_run_ends_a_relaunch_and_refuses_other_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, state = Start(tmp_path / "run" / "iter_0000004", resume=True), TrainState(iteration=4)
    own = config_from_settings({"save": str(tmp_path / "run"), "train_iters": 4}, "t")
    assert is_nothing_left(own, start, state)
    assert "iteration 4 of --train_iters 4: nothing is left to train" in capsys.readouterr().out
    assert not is_nothing_left(own, start, TrainState(iteration=3))
    assert not is_nothing_left(own, None, TrainState())
    other = config_from_settings({"load": "run", "save": str(tmp_path / "new"), "train_iters": 4}, "t")
    with pytest.raises(CheckpointError, match=r"and --save .*new would stay empty: add --finetune"):
        is_nothing_left(other, start, state)
