"""Every kind of network is converted to a checkpoint and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.families import FAMILIES
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.tensors.tensor import ConvertError, same_bits
from checkpoint_convert.verify.verify import verify
from megatron_train.checkpoint.folder import CheckpointError, check_folder
from megatron_train.config.model_config import ModelConfig
from tests.checkpoint_convert.tiny_models import MODELS, save_tiny_model

CHATML = ("<|im_start|>", "<|im_end|>")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not same_bits(first[name], second[name])] == []


@pytest.mark.parametrize("kind", MODELS)
def test_round_trip_is_bitwise_identical(
    kind: str, hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    to_hf(converted(kind), tmp_path / "hf", ExportOptions(max_shard_bytes=20_000))

    assert_same_tensors(tensors_of(hf_folder(kind)), tensors_of(tmp_path / "hf"))


@pytest.mark.parametrize("kind", MODELS)
def test_round_trip_keeps_every_logit(
    kind: str, hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    to_hf(converted(kind), tmp_path / "hf", ExportOptions())
    tokens = torch.arange(5, 37).view(2, 16)

    logits = [
        transformers.AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits
        for folder in (hf_folder(kind), tmp_path / "hf")
    ]

    assert torch.equal(logits[0], logits[1])


def test_from_hf_names_new_tokens_on_rows_of_the_source(
    spm_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_model("llama_gqa", tmp_path / "hf", vocab_size=401)
    (tmp_path / "hf" / "tokenizer.model").write_bytes(spm_model.read_bytes())

    from_hf(tmp_path / "hf", tmp_path / "ckpt", ImportOptions(CHATML, new_tokens=False))

    message = "already has 401 rows, so these tokens keep the weights of their rows: <|im_start|> 400\n"
    assert capsys.readouterr().err == f"warning: {tmp_path / 'hf'}: {message}"

    (tmp_path / "hf" / "added_tokens.json").write_text('{"<|im_start|>": 400}')
    from_hf(tmp_path / "hf", tmp_path / "known", ImportOptions(CHATML, new_tokens=False))
    assert capsys.readouterr().err == ""


def test_stops_and_sampling_settings_go_there_and_back(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    sampling = {"do_sample": True, "temperature": 0.6, "eos_token_id": [2, 9]}
    (llama_with_tokenizer / "generation_config.json").write_text(json.dumps(sampling))

    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions(CHATML))
    to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions())

    assert json.loads((tmp_path / "hf" / "generation_config.json").read_text()) == {
        "do_sample": True,
        "temperature": 0.6,
        "eos_token_id": [2, 406, 9],
        "bos_token_id": 1,
        "pad_token_id": 404,
    }
    check_folder(tmp_path / "ckpt" / "release")


def test_sampling_settings_survive_training(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    """The trainer copies tokenizer/ and tokenizer/source/ of its starting checkpoint, but no generation_config.json."""
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 9]}
    (llama_with_tokenizer / "generation_config.json").write_text(json.dumps(sampling))
    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions(CHATML))
    trained = tmp_path / "ckpt" / "release"
    (trained / "generation_config.json").unlink()

    to_hf(trained, tmp_path / "hf", ExportOptions(check_sums=False))

    assert json.loads((tmp_path / "hf" / "generation_config.json").read_text()) == {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "eos_token_id": [2, 406, 9],
        "bos_token_id": 1,
        "pad_token_id": 404,
    }


def test_without_a_tokenizer_the_ids_of_config_json_are_kept(hf_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = changed(hf_folder("llama_gqa"), tmp_path / "hf", {"eos_token_id": [7, 9], "bos_token_id": 3})

    from_hf(folder, tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "again", ExportOptions())

    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"]) == ([7, 9], 3)
    settings = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert settings == {"bos_token_id": 3, "eos_token_id": [7, 9]}


@pytest.mark.parametrize("text", ["[]", "{", '{"eos_token_id": "</s>"}'])
def test_from_hf_names_a_generation_config_that_it_cannot_keep(
    hf_folder: Callable[[str], Path], tmp_path: Path, text: str
) -> None:
    folder = changed(hf_folder("llama_gqa"), tmp_path / "hf")
    (folder / "generation_config.json").write_text(text)

    with pytest.raises(ConvertError, match=r"hf/generation_config\.json: "):
        from_hf(folder, tmp_path / "ckpt", ImportOptions())


def test_from_hf_adds_and_pads_rows(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    report = from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions(CHATML))
    release = tmp_path / "ckpt" / "release"
    model = ModelConfig.load(release / "model_config.yaml")

    assert (model.source_vocab_size, model.vocab_size, model.padded_vocab_size) == (400, 407, 512)
    assert report.vocabulary == "400 rows of the source + 7 new (--new_token_init mean) = 407, padded to 512"
    assert (tmp_path / "ckpt" / "latest_checkpointed_iteration.txt").read_text() == "release\n"
    check_folder(release)


def test_to_hf_writes_the_tokenizers_rows(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions(CHATML, new_token_init="last_row"))
    to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions())
    before, after = tensors_of(llama_with_tokenizer), tensors_of(tmp_path / "hf")

    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert after[name].shape[0] == 407
        assert torch.equal(after[name][:400], before[name])
        assert torch.equal(after[name][400:], before[name][-1:].expand(7, -1))
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"], config["pad_token_id"]) == (407, [2, 406], 404)


@pytest.mark.parametrize(("choice", "rows"), [("source", 400), ("tokenizer", 407), ("auto", 407), ("512", 512)])
def test_to_hf_writes_the_rows_asked_for(llama_with_tokenizer: Path, tmp_path: Path, choice: str, rows: int) -> None:
    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions(CHATML))
    to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions(vocab_size=choice))

    assert tensors_of(tmp_path / "hf")["lm_head.weight"].shape[0] == rows


def test_an_exported_folder_is_imported_again(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    from_hf(llama_with_tokenizer, tmp_path / "one", ImportOptions(CHATML))
    to_hf(tmp_path / "one", tmp_path / "hf", ExportOptions())
    from_hf(tmp_path / "hf", tmp_path / "two", ImportOptions())
    to_hf(tmp_path / "two", tmp_path / "hf2", ExportOptions())

    assert_same_tensors(tensors_of(tmp_path / "hf"), tensors_of(tmp_path / "hf2"))
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
    ):
        assert (tmp_path / "hf" / name).read_text() == (tmp_path / "hf2" / name).read_text(), name


def test_dtype_is_kept_or_changed(tmp_path: Path) -> None:
    save_tiny_model("llama_gqa", tmp_path / "bf16", torch.bfloat16)
    from_hf(tmp_path / "bf16", tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "kept", ExportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "fp32", ExportOptions(dtype=torch.float32))

    assert_same_tensors(tensors_of(tmp_path / "bf16"), tensors_of(tmp_path / "kept"))
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "fp32").values()} == {torch.float32}
    assert json.loads((tmp_path / "fp32" / "config.json").read_text())["dtype"] == "float32"


def test_pickled_weights_are_read(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "config.json").write_bytes((hf_folder("llama_gqa") / "config.json").read_bytes())
    torch.save(tensors_of(hf_folder("llama_gqa")), folder / "pytorch_model.bin")

    from_hf(folder, tmp_path / "ckpt", ImportOptions())

    ours, theirs = tmp_path / "ckpt" / "release" / "__0_0.distcp", converted("llama_gqa") / "release" / "__0_0.distcp"
    assert ours.read_bytes() == theirs.read_bytes()


def changed(source: Path, target: Path, config: dict[str, object] | None = None, drop: str = "", add: str = "") -> Path:
    """Return a copy of a single-file folder with some config fields set, and a tensor dropped or added."""
    target.mkdir()
    text = json.loads((source / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps(text))
    tensors = tensors_of(source)
    tensors.pop(drop, None)
    if add:
        tensors[add] = torch.ones(3)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "model.norm.weight"}, r"lacks 1 tensors .*model\.norm\.weight"),
        ({"add": "model.extra.weight"}, r"has 1 tensors .* llama model: model\.extra\.weight"),
        ({"config": {"num_hidden_layers": 3}}, "lacks 9 tensors"),
        ({"config": {"model_type": "bert"}}, "model_type 'bert' is not supported"),
        ({"config": {"hidden_sizes": 3}}, r"hidden_sizes = 3 \(did you mean 'hidden_size'\?\)"),
        ({"config": {"hidden_size": 10**12}}, "hidden_size is 1000000000000; expected a whole number"),
        ({"config": {"num_key_value_heads": 3}}, "num_query_groups 3 does not divide num_attention_heads 4"),
        (
            {"config": {"rope_parameters": {"rope_type": "longrope", "factor": 2}}},
            "rope type 'longrope'",
        ),
        ({"config": {"hidden_act": "relu"}}, "hidden_act = 'relu' is not supported"),
        ({"config": {"vocab_size": 401}}, r"embed_tokens\.weight is \[400, 32\], .* \[401, 32\]"),
        ({"config": {"intermediate_size": 64}}, r"gate_proj\.weight is \[48, 32\], .* \[64, 32\]"),
        ({"config": {"quantization_config": {"bits": 4}}}, "quantized weights cannot be converted"),
    ],
)
def test_from_hf_refuses_and_leaves_nothing(
    hf_folder: Callable[[str], Path], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = changed(hf_folder("llama_gqa"), tmp_path / "hf", **change)  # type: ignore[arg-type]

    with pytest.raises(ConvertError, match=message):
        from_hf(folder, tmp_path / "ckpt", ImportOptions())
    assert not (tmp_path / "ckpt").exists()


def test_from_hf_drops_buffers_of_old_files(hf_folder: Callable[[str], Path], tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    folder = changed(hf_folder("llama_gqa"), tmp_path / "hf", add=name)

    report = from_hf(folder, tmp_path / "ckpt", ImportOptions())

    assert report.dropped == [name]


def test_a_neox_head_may_be_called_lm_head(hf_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """transformers 5 names the head lm_head in state_dict() of GPTNeoXForCausalLM; save_pretrained writes embed_out."""
    tensors = tensors_of(hf_folder("neox_parallel"))
    folder = changed(hf_folder("neox_parallel"), tmp_path / "hf")
    spelled = {name.replace("embed_out.", "lm_head."): tensor for name, tensor in tensors.items()}
    assert spelled.keys() - tensors.keys() == {"lm_head.weight"}
    save_file(spelled, folder / "model.safetensors", {"format": "pt"})

    assert from_hf(folder, tmp_path / "ckpt", ImportOptions()).dropped == []
    to_hf(tmp_path / "ckpt", tmp_path / "again", ExportOptions())

    assert_same_tensors(tensors, tensors_of(tmp_path / "again"))


def test_from_hf_takes_a_tied_head_only_as_a_copy(hf_folder: Callable[[str], Path], tmp_path: Path) -> None:
    tensors = tensors_of(hf_folder("llama_tied"))
    for folder, head in (("copy", tensors["model.embed_tokens.weight"].clone()), ("other", torch.zeros(400, 32))):
        changed(hf_folder("llama_tied"), tmp_path / folder)
        save_file({**tensors, "lm_head.weight": head}, tmp_path / folder / "model.safetensors", {"format": "pt"})

    assert from_hf(tmp_path / "copy", tmp_path / "ckpt", ImportOptions()).dropped == ["lm_head.weight"]
    with pytest.raises(ConvertError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        from_hf(tmp_path / "other", tmp_path / "ckpt2", ImportOptions())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama_tied", "neox_tied", "falcon_7b"])
def test_a_tied_head_stands_for_an_embedding_that_the_file_lacks(
    kind: str, hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors, table = tensors_of(hf_folder(kind)), FAMILIES[kind.split("_")[0].replace("neox", "gpt_neox")]
    embedding = next(name for name in tensors if "embed" in name)
    folder = changed(hf_folder(kind), tmp_path / "hf")
    tensors[table.tied_copy] = tensors.pop(embedding)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    from_hf(folder, tmp_path / "ckpt", ImportOptions())

    outcome = verify(hf_folder(kind), tmp_path / "ckpt")
    assert (outcome.different, outcome.is_equal) == ([], True)
    assert verify(folder, tmp_path / "ckpt").is_equal


def test_nan_is_reported_both_ways(
    hf_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(hf_folder("llama_gqa"), tmp_path / "hf")
    tensors = tensors_of(folder)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    from_hf(folder, tmp_path / "ckpt", ImportOptions())

    assert "1 tensors contain NaN or infinity: decoder.final_layernorm.weight" in capsys.readouterr().err
    to_hf(tmp_path / "ckpt", tmp_path / "back", ExportOptions())
    assert "1 tensors contain NaN or infinity: model.norm.weight" in capsys.readouterr().err


def test_from_hf_refuses_a_dtype_that_makes_infinity_of_a_number(
    hf_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = changed(hf_folder("llama_gqa"), tmp_path / "hf")
    tensors = tensors_of(folder)
    tensors["model.norm.weight"][3] = 1e6
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    message = r"decoder\.final_layernorm\.weight: has numbers too large for float16; use --dtype bf16 or fp32"
    with pytest.raises(ConvertError, match=message):
        from_hf(folder, tmp_path / "ckpt", ImportOptions(dtype=torch.float16))
    assert not (tmp_path / "ckpt").exists()


def test_from_hf_refuses_integers_for_weights(hf_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = changed(hf_folder("llama_gqa"), tmp_path / "hf")
    tensors = tensors_of(folder)
    tensors["lm_head.weight"] = (tensors["lm_head.weight"] * 100).to(torch.int8)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(ConvertError, match=r"lm_head\.weight .*int8: quantized weights"):
        from_hf(folder, tmp_path / "ckpt", ImportOptions())


def test_from_hf_never_overwrites(hf_folder: Callable[[str], Path], converted: Callable[[str], Path]) -> None:
    with pytest.raises(ConvertError, match="release: exists already; remove it"):
        from_hf(hf_folder("llama_gqa"), converted("llama_gqa"), ImportOptions())


def test_to_hf_without_a_tokenizer_writes_weights_and_warns(
    converted: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_hf(converted("llama_gqa"), tmp_path / "hf", ExportOptions())

    assert sorted(path.name for path in tmp_path.joinpath("hf").iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "receipt.json",
    ]
    assert "has no tokenizer/ folder" in capsys.readouterr().err


def test_to_hf_refuses_a_damaged_checkpoint(hf_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from_hf(hf_folder("llama_gqa"), tmp_path / "ckpt", ImportOptions())
    path = tmp_path / "ckpt" / "release" / "__0_0.distcp"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(CheckpointError, match=r"__0_0\.distcp: contents differ"):
        to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]
    to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions(check_sums=False))
    assert (tmp_path / "hf").is_dir()


def test_to_hf_refuses_an_existing_folder(converted: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "note").write_text("mine")

    with pytest.raises(ConvertError, match="hf: exists already"):
        to_hf(converted("llama_gqa"), tmp_path / "hf", ExportOptions())


def test_to_hf_leaves_nothing_when_the_disk_is_full(
    converted: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("checkpoint_convert.tensors.hashed_file.os.pwrite", full)

    with pytest.raises(OSError, match="No space left"):
        to_hf(converted("llama_gqa"), tmp_path / "hf", ExportOptions())
    assert list(tmp_path.iterdir()) == []
