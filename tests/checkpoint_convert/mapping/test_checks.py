"""Names, shapes and vocabulary rows are checked before any tensor is converted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.mapping.checks import check_names, megatron_shapes, plan_rows, rows_to_write, target_infos
from checkpoint_convert.mapping.options import ImportOptions
from checkpoint_convert.mapping.vocabulary import RowPlan
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo
from megatron_train.config.model_config import ModelConfig
from pretokenizer.tokenizer.load import load_tokenizer


def test_shapes_count_every_parameter(tiny_model_config: ModelConfig) -> None:
    for changes in ({}, {"add_bias_linear": True}, {"share_embeddings_and_output_weights": True}):
        model = replace(tiny_model_config, **changes)
        shapes = megatron_shapes(model)
        names = [rule.megatron for rule in FAMILIES["llama"].table(model).rules]
        keys = [".".join(word for word in name.split(".") if not word.isdigit()) for name in names]

        assert sum(torch.Size(shapes[key]).numel() for key in keys) == model.num_parameters()


def test_target_infos_are_the_other_sides_shapes(tiny_model_config: ModelConfig) -> None:
    table, shapes = FAMILIES["llama"].table(tiny_model_config), megatron_shapes(tiny_model_config)
    infos = {
        rule.megatron: TensorInfo(
            shapes[".".join(w for w in rule.megatron.split(".") if not w.isdigit())], torch.float32
        )
        for rule in table.rules
    }

    targets = target_infos(table, infos, tiny_model_config, rows=100, dtype=torch.bfloat16)

    assert targets["model.embed_tokens.weight"] == ((100, 64), torch.bfloat16)
    assert targets["model.layers.3.self_attn.q_proj.weight"] == ((64, 64), torch.bfloat16)
    assert targets["model.layers.3.self_attn.k_proj.weight"] == ((32, 64), torch.bfloat16)
    assert targets["model.layers.3.mlp.up_proj.weight"] == ((96, 64), torch.bfloat16)


def test_check_names_lists_what_is_missing_and_what_is_left(tiny_model_config: ModelConfig) -> None:
    table = FAMILIES["llama"].table(tiny_model_config)
    present = {name: TensorInfo((1,), torch.float32) for rule in table.rules for name in rule.others}
    inv_freq = "model.layers.0.self_attn.rotary_emb.inv_freq"

    assert check_names(table, present | {inv_freq: TensorInfo((1,), torch.float32)}, Path("hf"), []) == [inv_freq]
    with pytest.raises(ConvertError, match=r"hf: lacks 1 tensors .*lm_head\.weight"):
        check_names(table, {k: v for k, v in present.items() if k != "lm_head.weight"}, Path("hf"), [])
    with pytest.raises(ConvertError, match=r"has 1 tensors .* llama model: score"):
        check_names(table, present | {"score": TensorInfo((1,), torch.float32)}, Path("hf"), [])


def test_plan_rows_takes_the_larger_of_source_and_tokenizer(spm_model: Path, tiny_model_config: ModelConfig) -> None:
    tokenizer = load_tokenizer(spm_model, ("<|im_start|>", "<|im_end|>"))  # 407 tokens

    for rows, used, padded in ((120, 407, 512), (450, 450, 512), (600, 600, 640)):
        plan = plan_rows(replace(tiny_model_config, vocab_size=rows), tokenizer, ImportOptions(new_token_init="normal"))
        assert plan == RowPlan(rows, used, padded, "normal", 0.02, 1234)


def test_rows_to_write_refuses_missing_rows(spm_model: Path, tiny_model_config: ModelConfig) -> None:
    model = replace(tiny_model_config, vocab_size=407, padded_vocab_size=512, source_vocab_size=400)
    tokenizer = load_tokenizer(spm_model, ("<|im_start|>", "<|im_end|>"))

    assert [rows_to_write(model, tokenizer, choice) for choice in ("auto", "source", "tokenizer")] == [407, 400, 407]
    with pytest.raises(ConvertError, match="--vocab_size 513: the checkpoint has 512 rows"):
        rows_to_write(model, tokenizer, "513")
    with pytest.raises(ConvertError, match="the checkpoint has no tokenizer folder"):
        rows_to_write(model, None, "tokenizer")
    with pytest.raises(ConvertError, match="the tokenizer has 407 tokens but the checkpoint only 120 rows"):
        rows_to_write(tiny_model_config, tokenizer, "auto")
