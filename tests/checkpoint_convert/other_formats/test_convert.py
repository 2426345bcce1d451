"""Meta's and Megatron-LLM's files, compared with a plain Llama written from Meta's definition."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from checkpoint_convert.__main__ import main
from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.other_formats.convert import (
    MetaOptions,
    from_megatron_llm,
    from_meta,
    verify_megatron_llm,
    verify_meta,
)
from checkpoint_convert.other_formats.megatron_llm_arguments import with_recorded_tokens
from checkpoint_convert.other_formats.megatron_llm_writer import RankOptions, check_layout, to_megatron_llm
from checkpoint_convert.tensors.tensor import ConvertError, same_bits
from megatron_train.config.model_config import ModelConfig
from pretokenizer.files.checksums import verify_sha256sums

DIM, HEADS, KV_HEADS, FFN, VOCABULARY, LAYERS = 32, 4, 2, 48, 400, 2
CHANNELS = DIM // HEADS
PARAMS = {"dim": DIM, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV_HEADS, "multiple_of": 16}
PARAMS |= {"norm_eps": 1e-5, "vocab_size": -1}
SPLIT_AXIS = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "tok_embeddings": 1, "output": 0}


def meta_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    shapes = {"tok_embeddings": (VOCABULARY, DIM), "output": (VOCABULARY, DIM), "norm": (DIM,)}
    for i in range(LAYERS):
        attention, mlp = f"layers.{i}.attention.", f"layers.{i}.feed_forward."
        shapes |= {f"{attention}wq": (DIM, DIM), f"{attention}wo": (DIM, DIM)}
        shapes |= {f"{attention}{k}": (KV_HEADS * CHANNELS, DIM) for k in ("wk", "wv")}
        shapes |= {f"{mlp}w1": (FFN, DIM), f"{mlp}w2": (DIM, FFN), f"{mlp}w3": (FFN, DIM)}
        shapes |= {f"layers.{i}.{norm}": (DIM,) for norm in ("attention_norm", "ffn_norm")}
    return {
        f"{name}.weight": torch.randn(shape) * 0.2 + (1.0 if len(shape) == 1 else 0.0) for name, shape in shapes.items()
    }


def meta_logits(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Return the logits of Llama as Meta defines it: the position turns channels 2i and 2i+1 as one complex number."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weights[f"{name}.weight"]

    def turn(x: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(torch.arange(length), 10000.0 ** -(torch.arange(0, CHANNELS, 2) / CHANNELS))
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)

    length = tokens.shape[0]
    x = weights["tok_embeddings.weight"][tokens]
    for i in range(LAYERS):
        h, a = norm(x, f"layers.{i}.attention_norm"), f"layers.{i}.attention."
        q, k, v = (
            (h @ weights[f"{a}{w}.weight"].T).unflatten(-1, (n, CHANNELS))
            for w, n in (("wq", HEADS), ("wk", KV_HEADS), ("wv", KV_HEADS))
        )
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (turn(k), v))
        scores = torch.einsum("qhd,khd->hqk", turn(q), k) / CHANNELS**0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf")).softmax(-1)
        x = x + torch.einsum("hqk,khd->qhd", scores, v).flatten(1) @ weights[f"{a}wo.weight"].T
        h, m = norm(x, f"layers.{i}.ffn_norm"), f"layers.{i}.feed_forward."
        gated = torch.nn.functional.silu(h @ weights[f"{m}w1.weight"].T) * (h @ weights[f"{m}w3.weight"].T)
        x = x + gated @ weights[f"{m}w2.weight"].T
    return norm(x, "norm") @ weights["output.weight"].T


def save_meta(folder: Path, parts: int, vocabulary_axis: int = 1) -> Path:
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(PARAMS))
    for rank in range(parts):
        state = {}
        for name, tensor in meta_weights().items():
            axis = SPLIT_AXIS.get(name.split(".")[-2])
            axis = vocabulary_axis if name == "tok_embeddings.weight" else axis
            state[name] = tensor if axis is None else tensor.chunk(parts, axis)[rank].clone()
        state["rope.freqs"] = torch.ones(4)
        torch.save(state, folder / f"consolidated.{rank:02d}.pth")
    return folder


@pytest.mark.parametrize(("parts", "vocabulary_axis"), [(1, 1), (2, 1), (2, 0)])
def test_from_meta_computes_what_meta_defines(tmp_path: Path, parts: int, vocabulary_axis: int) -> None:
    folder = save_meta(tmp_path / "meta", parts, vocabulary_axis)
    tokens = torch.arange(3, 15)

    from_meta(folder, tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions())
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()

    torch.testing.assert_close(model(tokens[None]).logits[0], meta_logits(meta_weights(), tokens), atol=1e-5, rtol=0)
    assert verify_meta(folder, tmp_path / "ckpt").different == []


def scaled_meta(folder: Path, is_tied: bool, has_copy: bool = False) -> Path:
    """Write Meta's files of a tied model with use_scaled_rope, with or without a copy of the embedding as output."""
    save_meta(folder, 1)
    (folder / "params.json").write_text(json.dumps({**PARAMS, "rope_theta": 500000.0, "use_scaled_rope": True}))
    state = torch.load(folder / "consolidated.00.pth")
    if is_tied:
        del state["output.weight"]
    if has_copy:
        state["output.weight"] = state["tok_embeddings.weight"].clone()
    torch.save(state, folder / "consolidated.00.pth")
    return folder


@pytest.mark.parametrize(
    ("is_tied", "has_copy", "given", "factor", "warning"),
    [
        (False, False, None, 8.0, "using 8 (--rope_scaling_factor)"),
        (True, False, None, 32.0, "using 32 (--rope_scaling_factor)"),
        (True, True, None, 32.0, "using 32 (--rope_scaling_factor)"),
        (True, False, 16.0, 16.0, ""),
    ],
)
def test_from_meta_of_llama_3_has_the_releases_rotary_factor(
    is_tied: bool,
    has_copy: bool,
    given: float | None,
    factor: float,
    warning: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = scaled_meta(tmp_path / "m", is_tied, has_copy)
    from_meta(folder, tmp_path / "c", ImportOptions(), MetaOptions(rope_scaling_factor=given))
    model = ModelConfig.load(tmp_path / "c" / "release" / "model_config.yaml")

    assert (model.rope_scaling_type, model.rope_scaling_factor) == ("llama3", factor)
    assert (model.max_position_embeddings, model.share_embeddings_and_output_weights) == (131072, is_tied)
    err = capsys.readouterr().err
    assert warning in err if warning else "rotary scaling factor" not in err
    assert verify_meta(tmp_path / "m", tmp_path / "c").different == []


def test_a_rotary_factor_needs_scaled_rope(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"params.json: .*--rope_scaling_factor"):
        from_meta(save_meta(tmp_path / "m", 1), tmp_path / "c", ImportOptions(), MetaOptions(rope_scaling_factor=8.0))


def test_llama_3s_tokenizer_file_is_recognised(tmp_path: Path) -> None:
    folder = save_meta(tmp_path / "meta", 1)
    (folder / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")

    with pytest.raises(ConvertError, match=r"tiktoken .*tokenizer\.json .* --vocab_file"):
        from_meta(folder, tmp_path / "ckpt", ImportOptions())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("layers.0.attention.wq.bias", torch.ones(3), r"consolidated\.01\.pth: only .* has layers\.0"),
        ("layers.0.attention.wq.weight", torch.ones(3), r"consolidated\.01\.pth: its layers\.0\.attention\.wq\.weight"),
        ("norm.weight", torch.full((DIM,), 7.0), r"consolidated\.01\.pth: its norm\.weight does not match"),
    ],
)
def test_from_meta_refuses_parts_of_two_models(tmp_path: Path, name: str, change: torch.Tensor, message: str) -> None:
    folder = save_meta(tmp_path / "meta", 2)
    second = torch.load(folder / "consolidated.01.pth") | {name: change}
    torch.save(second, folder / "consolidated.01.pth")

    with pytest.raises(ConvertError, match=message):
        from_meta(folder, tmp_path / "ckpt", ImportOptions())


@pytest.mark.parametrize(
    ("params", "base", "context"),
    [
        ({"norm_eps": 1e-6}, 10000.0, 2048),
        ({}, 10000.0, 4096),
        ({"rope_theta": 1000000.0}, 1000000.0, 16384),
        ({"rope_theta": 500000.0}, 500000.0, 8192),
        ({"rope_theta": 500000.0, "use_scaled_rope": True}, 500000.0, 131072),
    ],
)
def test_from_meta_takes_rope_theta_and_knows_the_context(
    params: dict[str, object], base: float, context: int, tmp_path: Path
) -> None:
    folder = save_meta(tmp_path / "meta", 1)
    (folder / "params.json").write_text(json.dumps(PARAMS | params))
    from_meta(folder, tmp_path / "ckpt", ImportOptions())
    model = ModelConfig.load(tmp_path / "ckpt" / "release" / "model_config.yaml")
    assert (model.rotary_base, model.max_position_embeddings) == (base, context)


def test_megatron_llm_carries_rope_theta(tmp_path: Path) -> None:
    folder = save_meta(tmp_path / "meta", 1)
    (folder / "params.json").write_text(json.dumps(PARAMS | {"rope_theta": 500000.0}))
    from_meta(folder, tmp_path / "ckpt", ImportOptions())
    to_megatron_llm(tmp_path / "ckpt", tmp_path / "llm", RankOptions())
    path = tmp_path / "llm" / "release" / "mp_rank_00" / "model_optim_rng.pt"
    assert torch.load(path, weights_only=False)["args"].rope_theta == 500000.0
    from_megatron_llm(tmp_path / "llm", tmp_path / "two", ImportOptions())
    assert ModelConfig.load(tmp_path / "two" / "release" / "model_config.yaml").rotary_base == 500000.0


def test_megatron_llm_has_metas_rows_unchanged(tmp_path: Path) -> None:
    from_meta(save_meta(tmp_path / "meta", 1), tmp_path / "ckpt", ImportOptions())
    to_megatron_llm(tmp_path / "ckpt", tmp_path / "llm", RankOptions())
    state = torch.load(tmp_path / "llm" / "release" / "mp_rank_00" / "model_optim_rng.pt", weights_only=False)
    encoder, weights = state["model"]["language_model"]["encoder"], meta_weights()

    # 2 groups of 2 query heads: q0 q1 k0 v0 q2 q3 k1 v1, and up (w3) before gate (w1)
    q, k, v = (weights[f"layers.1.attention.{name}.weight"].split(CHANNELS) for name in ("wq", "wk", "wv"))
    qkv = torch.cat([q[0], q[1], k[0], v[0], q[2], q[3], k[1], v[1]])
    assert torch.equal(encoder["layers.1.self_attention.query_key_value.weight"], qkv)
    up_gate = torch.cat([weights[f"layers.1.feed_forward.{name}.weight"] for name in ("w3", "w1")])
    assert torch.equal(encoder["layers.1.mlp.dense_h_to_4h.weight"], up_gate)
    assert torch.equal(state["model"]["language_model"]["lm_head"][:VOCABULARY], weights["output.weight"])
    assert (state["checkpoint_version"], state["iteration"], state["args"].padded_vocab_size) == (3.0, "release", 512)
    assert (tmp_path / "llm" / "latest_checkpointed_iteration.txt").read_text() == "release"
    assert verify_sha256sums(tmp_path / "llm") == []


def test_nan_is_reported_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_meta(tmp_path / "meta", 1) / "consolidated.00.pth"
    state = torch.load(path)
    state["norm.weight"][3] = float("nan")
    torch.save(state, path)

    from_meta(tmp_path / "meta", tmp_path / "ckpt", ImportOptions())
    assert "1 tensors contain NaN or infinity: decoder.final_layernorm.weight" in capsys.readouterr().err
    to_megatron_llm(tmp_path / "ckpt", tmp_path / "llm", RankOptions())
    assert "1 tensors contain NaN or infinity: encoder.final_layernorm.weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "tp", "pp"),
    [
        ("llama_gqa", 2, 2),
        ("llama_tied", 2, 1),
        ("llama_head_dim", 1, 1),
        ("mistral", 1, 2),
        ("falcon_7b", 1, 2),
        ("falcon_40b", 2, 2),
    ],
)
def test_megatron_llm_there_and_back_is_bitwise_identical(
    kind: str, tp: int, pp: int, hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    to_megatron_llm(converted(kind), tmp_path / "llm", RankOptions(tp, pp))
    names = sorted(path.name for path in (tmp_path / "llm" / "release").iterdir())
    assert len(names) == tp * pp
    assert verify_megatron_llm(tmp_path / "llm", converted(kind)).different == []

    from_megatron_llm(tmp_path / "llm", tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions(vocab_size="400"))

    before, after = load_file(hf_folder(kind) / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if not same_bits(before[name], after[name])] == []


def test_from_megatron_llm_reads_the_older_spelling(converted: Callable[[str], Path], tmp_path: Path) -> None:
    """Older releases name their layers `transformer` and `attention`, and have no level above the embedding."""
    to_megatron_llm(converted("llama_gqa"), tmp_path / "llm", RankOptions(1, 1))
    path = tmp_path / "llm" / "release" / "mp_rank_00" / "model_optim_rng.pt"
    state = torch.load(path, weights_only=False)
    model = state["model"]["language_model"]
    model["transformer"] = {k.replace("self_attention", "attention"): v for k, v in model.pop("encoder").items()}
    model["embedding"] = {"word_embeddings.weight": model["embedding"]["word_embeddings"]["weight"]}
    del state["args"].encoder_num_layers
    torch.save(state, path)

    from_megatron_llm(tmp_path / "llm", tmp_path / "ckpt", ImportOptions())

    assert verify_megatron_llm(tmp_path / "llm", tmp_path / "ckpt").different == []


def test_from_megatron_llm_trims_rows_to_the_tokenizer(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    tokens = ("<|im_start|>", "<|im_end|>")
    from_hf(llama_with_tokenizer, tmp_path / "one", ImportOptions(tokens))
    to_megatron_llm(tmp_path / "one", tmp_path / "llm", RankOptions(2, 1))

    report = from_megatron_llm(tmp_path / "llm", tmp_path / "two", ImportOptions(tokens))
    to_hf(tmp_path / "two", tmp_path / "hf", ExportOptions())

    assert report.vocabulary == "512 rows of the source, 407 in use, padded to 512"
    assert load_file(tmp_path / "hf" / "model.safetensors")["lm_head.weight"].shape == (407, 32)


def test_added_tokens_come_back_from_megatron_llm(
    llama_with_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The saved arguments name the added tokens, so the command needs no flag for them."""
    options = ImportOptions(("<|im_start|>", "<|im_end|>"), new_tokens=False)
    from_hf(llama_with_tokenizer, tmp_path / "one", options)
    to_megatron_llm(tmp_path / "one", tmp_path / "llm", RankOptions(1, 1))
    from_megatron_llm(tmp_path / "llm", tmp_path / "two", ImportOptions())
    from_megatron_llm(tmp_path / "llm", tmp_path / "three", ImportOptions(("<|im_start|>", "<|im_end|>")))

    path = tmp_path / "llm" / "release" / "mp_rank_00" / "model_optim_rng.pt"
    arguments = torch.load(path, weights_only=False)["args"]
    assert (arguments.vocab_extra_ids_list, arguments.new_tokens) == ("<|im_start|>,<|im_end|>", False)
    spec = json.loads((tmp_path / "two" / "release" / "tokenizer" / "tokenizer_spec.json").read_text())
    assert (spec["extra_special_tokens"], spec["new_tokens"]) == (["<|im_start|>", "<|im_end|>"], False)
    assert [line for line in capsys.readouterr().err.splitlines() if "was trained with" in line] == [
        f"warning: {tmp_path / 'llm'}: was trained with --vocab_extra_ids_list <|im_start|>,<|im_end|> "
        "--no_new_tokens; the tokens of the command line differ, and their ids may too"
    ]


def test_quotes_of_a_launch_script_are_not_part_of_a_token() -> None:
    arguments = {"vocab_extra_ids_list": '"<|im_start|>,<|im_end|>"', "new_tokens": True}

    options = with_recorded_tokens(ImportOptions(), arguments, Path("llm"))

    assert (options.extra_special_tokens, options.new_tokens) == (("<|im_start|>", "<|im_end|>"), True)


def test_from_megatron_llm_names_a_missing_rank(converted: Callable[[str], Path], tmp_path: Path) -> None:
    to_megatron_llm(converted("llama_gqa"), tmp_path / "llm", RankOptions(2, 2))
    (tmp_path / "llm" / "release" / "mp_rank_01_000" / "model_optim_rng.pt").unlink()

    with pytest.raises(ConvertError, match=r"ranks \[\(1, 0\)\] are missing"):
        from_megatron_llm(tmp_path / "llm", tmp_path / "ckpt", ImportOptions())


def test_from_megatron_llm_refuses_code(tmp_path: Path) -> None:
    folder = tmp_path / "release" / "mp_rank_00"
    folder.mkdir(parents=True)
    torch.save({"args": argparse.Namespace(run=print)}, folder / "model_optim_rng.pt")

    with pytest.raises(ConvertError, match=r"model_optim_rng\.pt: refused: .*__builtin__\.print"):
        from_megatron_llm(tmp_path / "release", tmp_path / "ckpt", ImportOptions())


def test_to_megatron_llm_names_what_does_not_divide(converted: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(
        ConvertError, match="key/value heads 2 is not a multiple of 4; num_layers 2 is not a multiple of 3"
    ):
        to_megatron_llm(converted("llama_gqa"), tmp_path / "llm", RankOptions(4, 3))
    with pytest.raises(ConvertError, match="Llama and Falcon models only, not this gpt_neox model"):
        to_megatron_llm(converted("neox_parallel"), tmp_path / "llm", RankOptions(1, 1))
    with pytest.raises(ConvertError, match="in sequence"):
        to_megatron_llm(converted("falcon_sequential"), tmp_path / "llm", RankOptions(1, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "activation", "message"),
    [
        ("llama_gqa", "gelu", "Megatron-LLM's llama model has silu, not gelu"),
        ("falcon_7b", "gelu_tanh", "Megatron-LLM's falcon model has gelu, not gelu_tanh"),
    ],
)
def test_to_megatron_llm_refuses_another_activation(
    kind: str, activation: str, message: str, converted: Callable[[str], Path]
) -> None:
    model = ModelConfig.load(converted(kind) / "release" / "model_config.yaml")

    with pytest.raises(ConvertError, match=message):
        check_layout(dataclasses.replace(model, activation=activation), 1, 1)


def test_commands_print_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, ckpt, llm = save_meta(tmp_path / "meta", 2), tmp_path / "ckpt", tmp_path / "llm"

    assert main(["from-meta", str(folder), str(ckpt), "--max_position_embeddings", "64"]) == 0
    assert main(["from-meta", str(folder), str(ckpt), "--rope_scaling_factor", "8"]) == 1
    sizes = ["--tensor_model_parallel_size", "2", "--pipeline_model_parallel_size", "2"]
    assert main(["to-megatron-llm", str(ckpt), str(llm), *sizes]) == 0
    assert main(["from-megatron-llm", str(llm), str(tmp_path / "two")]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "bitwise" in line] == [
        "verify: all 21 tensors are bitwise equal (400 vocabulary rows compared)",
        "verify: all 15 tensors are bitwise equal (400 vocabulary rows compared)",
        "verify: all 15 tensors are bitwise equal (512 vocabulary rows compared)",
    ]


@pytest.mark.parametrize("change", [{"norm_eps": "small"}, {"n_kv_heads": []}, {"dim": 0}])
def test_params_that_are_no_numbers_are_named(tmp_path: Path, change: dict[str, object]) -> None:
    folder = save_meta(tmp_path / "meta", 1)
    (folder / "params.json").write_text(json.dumps({**PARAMS, **change}))

    with pytest.raises(ConvertError, match=r"params\.json: "):
        from_meta(folder, tmp_path / "ckpt", ImportOptions())


def test_a_folder_without_params_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-meta", str(tmp_path), str(tmp_path / "ckpt")]) == 1
    assert "params.json: missing" in capsys.readouterr().err
