"""Weight files of Hugging Face folders, compared with the safetensors library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_convert.huggingface.weights import HfWeights, SafetensorsWriter, plan_shards
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b": torch.tensor([1.5, -2.5], dtype=torch.bfloat16),
    "c": torch.ones(4, 4, dtype=torch.float16),
}
INFOS = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}


def write_all(folder: Path, max_shard_bytes: int) -> None:
    writer = SafetensorsWriter(folder, INFOS, max_shard_bytes)
    for name, tensor in TENSORS.items():
        writer.write(name, INFOS[name], tensor.split(1))
    writer.close()


def test_writer_makes_one_file_that_the_library_reads(tmp_path: Path) -> None:
    write_all(tmp_path, 1000)

    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_writer_splits_and_indexes(tmp_path: Path) -> None:
    write_all(tmp_path, 30)  # the limit holds 24 + 4 bytes, but not the 32 bytes of c

    assert json.loads((tmp_path / "model.safetensors.index.json").read_text()) == {
        "metadata": {"total_size": 60},
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors",
        },
    }
    assert torch.equal(load_file(tmp_path / "model-00002-of-00002.safetensors")["c"], TENSORS["c"])
    source = HfWeights(tmp_path)
    assert source.infos == INFOS
    assert torch.equal(source.read("b"), TENSORS["b"])


def test_a_single_file_comes_before_an_index_as_in_transformers(tmp_path: Path) -> None:
    write_all(tmp_path, 30)
    save_file({"a": TENSORS["a"] * 2}, tmp_path / "model.safetensors")

    source = HfWeights(tmp_path)

    assert list(source.infos) == ["a"]
    assert source.read("a").tolist() == [[0, 2, 4], [6, 8, 10]]


def test_writer_refuses_what_was_not_announced(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path, INFOS, 1000)
    wrong = {
        "d": INFOS["a"],
        "b": INFOS["b"],
        "a": TensorInfo((2, 3), torch.float16),
    }  # unknown, too early, other dtype
    for name, info in wrong.items():
        with pytest.raises(ConvertError, match=rf"{name}: .*is not the next tensor"):
            writer.write(name, info, [])
    writer.write("a", INFOS["a"], [TENSORS["a"]])
    with pytest.raises(ConvertError, match=r"a: .*is not the next tensor"):
        writer.write("a", INFOS["a"], [TENSORS["a"]])
    with pytest.raises(ConvertError, match="not written: b, c"):
        writer.close()
    writer.abandon()


def test_plan_shards_gives_a_large_tensor_a_shard_of_its_own() -> None:
    infos = {name: TensorInfo((size,), torch.uint8) for name, size in {"a": 3, "b": 20, "c": 3, "d": 7}.items()}

    assert plan_shards(infos, 10) == [["a"], ["b"], ["c", "d"]]


def test_weights_reads_pickles_too(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")

    source = HfWeights(tmp_path)

    assert source.infos == INFOS
    assert torch.equal(source.read("c"), TENSORS["c"])


def sharded(folder: Path, weight_map: dict[str, str]) -> Path:
    save_file({"a": TENSORS["a"]}, folder / "one.safetensors")
    save_file({"b": TENSORS["b"]}, folder / "two.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "one.safetensors", "b": "three.safetensors"}, "three.safetensors: missing"),
        ({"a": "one.safetensors", "x": "two.safetensors"}, "two.safetensors lacks x"),
        ({"a": "two.safetensors", "b": "two.safetensors"}, "two.safetensors lacks a"),
        ({"a": "two.safetensors", "b": "one.safetensors"}, "two.safetensors: has b, .* one.safetensors"),
        ({"a": "../one.safetensors", "b": "two.safetensors"}, "expected the name of a weight file beside the index"),
        ({"a": "/etc/passwd", "b": "two.safetensors"}, "expected the name of a weight file beside the index"),
    ],
)
def test_weights_refuses_a_wrong_index(tmp_path: Path, weight_map: dict[str, str], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        HfWeights(sharded(tmp_path, weight_map))


def test_weights_names_a_truncated_shard(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-3])

    with pytest.raises(ConvertError, match=r"model\.safetensors: not a complete safetensors file"):
        HfWeights(tmp_path)


def test_weights_names_what_is_expected_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"has no weights; expected model\.safetensors"):
        HfWeights(tmp_path)


def test_a_wrappers_prefix_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torch.compile and DistributedDataParallel add prefixes to tensor names."""
    save_file({f"module._orig_mod.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / "model.safetensors")

    weights = HfWeights(tmp_path)

    assert set(weights.infos) == set(TENSORS)
    assert torch.equal(weights.read("a"), TENSORS["a"])
    assert "the prefix module._orig_mod. of every tensor's name is removed" in capsys.readouterr().err


def test_an_adapter_and_shards_without_index_are_explained(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ConvertError, match=r"no index; fetch model\.safetensors\.index\.json"):
        HfWeights(tmp_path)

    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConvertError, match=r"LoRA adapter .*merge_and_unload"):
        HfWeights(tmp_path)
