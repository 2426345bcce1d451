"""Checkpoints of other megatron-core tools are found and imported under their own keys and settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from checkpoint_convert.__main__ import main
from checkpoint_convert.families.family import differing_fields
from checkpoint_convert.mapping.options import ImportOptions
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
from checkpoint_convert.megatron_core.metadata import StoredTensor, read_metadata, write_metadata
from checkpoint_convert.other_formats.megatron_core import CoreOptions, from_megatron_core
from checkpoint_convert.other_formats.megatron_core_arguments import model_config_of_settings, saved_settings
from checkpoint_convert.tensors.tensor import ConvertError, same_bits
from megatron_train.config.model_config import ModelConfig


def foreign(source: Path, target: Path, rename: Callable[[str], str] = lambda key: key) -> Path:
    """Copy the tensors of our release to `target` under other keys, without our description files."""
    target.mkdir(parents=True)
    for path in source.glob("*.distcp"):
        shutil.copyfile(path, target / path.name)
    tensors = read_metadata(source)
    moments = {"optimizer.state.exp_avg.decoder.final_layernorm.weight": tensors["decoder.final_layernorm.weight"]}
    write_metadata(target, {rename(key): tensor for key, tensor in tensors.items()} | moments)
    return target


BRIDGE = {
    "model": {
        "_target_": "megatron.bridge.models.llama.llama_provider.LlamaModelProvider",
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 48,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "seq_length": 64,
        "normalization": "RMSNorm",
        "layernorm_epsilon": 1e-5,
        "gated_linear_unit": True,
        "activation_func": {"_target_": "torch.nn.functional.silu", "_call_": False},
        "rotary_base": 10000.0,
        "vocab_size": 400,
    }
}


def test_a_checkpoint_of_megatron_bridge(
    converted: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = converted("llama_gqa") / "release"
    folder = foreign(release, tmp_path / "run" / "iter_0000007", lambda key: f"model.{key}")
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("7")
    (folder / "run_config.yaml").write_text(yaml.safe_dump(BRIDGE))

    assert main(["from-megatron-core", str(tmp_path / "run"), str(tmp_path / "ckpt")]) == 0

    out, err = capsys.readouterr()
    assert "verify: all 15 tensors are bitwise equal" in out
    assert "1 tensors of training state are left out" in err
    ours, theirs = CheckpointReader(tmp_path / "ckpt" / "release"), CheckpointReader(release)
    assert all(same_bits(ours.read(name), theirs.read(name)) for name in theirs.infos)
    model = ModelConfig.load(tmp_path / "ckpt" / "release" / "model_config.yaml")
    assert (model.family, model.vocab_size, model.num_query_groups) == ("llama", 400, 2)


def test_layers_may_be_stored_one_by_one(converted: Callable[[str], Path], tmp_path: Path) -> None:
    release = converted("llama_gqa") / "release"
    folder = foreign(release, tmp_path / "run")
    tensors = {}
    for key, stored in read_metadata(release).items():
        if not key.startswith("decoder.layers."):
            tensors[key] = stored
            continue
        for chunk in stored.chunks:  # one chunk is one layer, with an axis of length 1
            name = f"decoder.layers.{chunk.offsets[0]}.{key.removeprefix('decoder.layers.')}"
            tensors[name] = StoredTensor(chunk.sizes, stored.dtype, [chunk._replace(offsets=(0,) * len(chunk.sizes))])
    write_metadata(folder, tensors)

    reader = CheckpointReader(folder, is_foreign=True)

    assert set(reader.infos) == set(CheckpointReader(release).infos)
    name = "decoder.layers.1.mlp.linear_fc2.weight"
    assert torch.equal(reader.read(name)[0], CheckpointReader(release).read(name))


def test_without_settings_the_architecture_is_named(converted: Callable[[str], Path], tmp_path: Path) -> None:
    folder = foreign(converted("llama_gqa") / "release", tmp_path / "bare")
    with pytest.raises(ConvertError, match="--model NAME_OR_YAML"):
        from_megatron_core(folder, tmp_path / "ckpt", ImportOptions())

    yaml_file = converted("llama_gqa") / "release" / "model_config.yaml"
    from_megatron_core(folder, tmp_path / "ckpt", ImportOptions(), CoreOptions(model=str(yaml_file)))
    assert ModelConfig.load(tmp_path / "ckpt" / "release" / "model_config.yaml").vocab_size == 400


def test_to_hf_imports_and_exports_in_one_command(
    converted: Callable[[str], Path],
    hf_folder: Callable[[str], Path],
    spm_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    release = converted("llama_gqa") / "release"
    folder = foreign(release, tmp_path / "bare")
    yaml_file = str(release / "model_config.yaml")

    command = ["to-hf", str(folder), str(tmp_path / "out" / "hf"), "--vocab_file", str(spm_model)]
    assert main(command) == 2
    assert "--vocab_file needs --model" in capsys.readouterr().err
    assert main([*command, "--model", yaml_file]) == 0

    out = capsys.readouterr().out
    assert out.count("tensors are bitwise equal") == 2
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "out" / "hf", hf_folder("llama_gqa")))
    assert ours.keys() == theirs.keys()
    assert all(same_bits(ours[name], theirs[name]) for name in theirs)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["hf"]
    assert (tmp_path / "out" / "hf" / "tokenizer.model").read_bytes() == spm_model.read_bytes()
    receipt = json.loads((tmp_path / "out" / "hf" / "receipt.json").read_text())
    assert (receipt["lineage"], [link["kind"] for link in receipt["links"]]) == (["bare"], ["model"])
    texts = [path.read_text() for path in (tmp_path / "out" / "hf").iterdir() if path.suffix in (".md", ".json")]
    assert not [text for text in [out, *texts] if ".hf.checkpoint-" in text]
    assert "| base model | `bare` |" in (tmp_path / "out" / "hf" / "README.md").read_text()


def test_to_hf_refuses_model_for_a_checkpoint_that_states_its_own(
    converted: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = converted("llama_gqa") / "release"
    folder = foreign(release, tmp_path / "bare")

    assert main(["to-hf", str(release), str(tmp_path / "hf"), "--model", "llama2_7b"]) == 1
    assert "model_config.yaml; leave --model out" in capsys.readouterr().err
    assert main(["to-hf", str(folder), str(tmp_path / "hf"), "--model", "llama2_7b", "--iteration", "7"]) == 1
    assert "--iteration does not combine with --model" in capsys.readouterr().err


def test_a_key_that_does_not_fit_is_named_with_its_counterpart(
    converted: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = foreign(
        converted("llama_gqa") / "release", tmp_path / "bare", lambda key: key.replace("linear_proj", "linear_out")
    )
    yaml_file = converted("llama_gqa") / "release" / "model_config.yaml"
    with pytest.raises(
        ConvertError, match=r"0\.self_attention\.linear_proj\.weight may be called .*\.linear_out\.weight"
    ):
        from_megatron_core(folder, tmp_path / "ckpt", ImportOptions(), CoreOptions(model=str(yaml_file)))


def test_the_old_format_of_megatron_is_named(tmp_path: Path) -> None:
    (tmp_path / "iter_0000005" / "mp_rank_00").mkdir(parents=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5")
    with pytest.raises(
        ConvertError, match=r"is a checkpoint in Megatron's old format.*--ckpt-convert-format torch_dist"
    ):
        from_megatron_core(tmp_path, tmp_path / "ckpt", ImportOptions())


def test_yarn_is_read_from_the_settings(converted: Callable[[str], Path], tmp_path: Path) -> None:
    release = converted("llama_rope_yarn") / "release"
    saved = model_config_of_settings(saved_settings(release), CheckpointReader(release).infos, release)
    assert differing_fields(saved, ModelConfig.load(release / "model_config.yaml")) == []

    wrong = {**saved_settings(release), "yarn_mscale": 1.0, "yarn_mscale_all_dim": 1.0}
    with pytest.raises(ConvertError, match=r"yarn_mscale.* = \(1\.0, 1\.0\) is not supported"):
        model_config_of_settings(wrong, CheckpointReader(release).infos, release)


def test_an_unknown_kind_of_network_is_refused(converted: Callable[[str], Path], tmp_path: Path) -> None:
    folder = foreign(converted("llama_gqa") / "release", tmp_path / "bare")
    settings = {"model": BRIDGE["model"] | {"num_moe_experts": 8}}
    (folder / "run_config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConvertError, match="not supported: num_moe_experts = 8"):
        from_megatron_core(folder, tmp_path / "ckpt", ImportOptions())
