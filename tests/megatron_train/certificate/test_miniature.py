from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_train.certificate.layouts import NamedLayout
from megatron_train.certificate.miniature import (
    LayoutPair,
    in_layout,
    micro_batches,
    small_config,
    small_depth,
    small_heads,
    small_model,
)
from megatron_train.config.flags import config_from_settings
from megatron_train.config.model_config import ModelConfig
from pretokenizer.config.yaml_config import ConfigError
from tests.paths import CONFIGS


def pair(asked: str, small: str) -> LayoutPair:
    return LayoutPair(NamedLayout.of(asked), NamedLayout.of(small))


def test_llama2_70b_keeps_its_head_ratio_and_its_padding_rows() -> None:
    model = replace(ModelConfig.load(CONFIGS / "model/llama2_70b.yaml"), vocab_size=32007, padded_vocab_size=32128)
    small = small_model(model, [pair("tp8-pp8-vpp2", "tp4-pp4-vpp2")], seq_length=4096)
    assert (small.num_layers, small.hidden_size, small.ffn_hidden_size) == (8, 256, 768)
    assert (small.num_attention_heads, small.query_groups, small.head_dim) == (32, 4, 8)
    assert (small.vocab_size, small.padded_vocab) == (1000, 1024)
    kept = ("family", "normalization", "gated_linear_unit", "activation", "rotary_base", "layernorm_epsilon")
    assert [getattr(small, name) for name in kept] == [getattr(model, name) for name in kept]
    assert small.problems() == []


@pytest.mark.parametrize(
    ("name", "asked_tp", "tp", "heads"),
    [
        ("llama2_70b", 4, 4, (64, 8)),  # two key/value heads a rank
        ("llama2_70b", 16, 4, (16, 2)),  # copies: two ranks share a key/value head
        ("llama2_7b", 2, 2, (4, 4)),
        ("llama2_7b", 32, 4, (4, 4)),  # one head a rank
        ("falcon_7b", 1, 1, (4, 1)),
        ("qwen2.5_0.5b", 2, 2, (14, 2)),
    ],
)
def test_a_rank_holds_key_value_heads_as_in_the_run(name: str, asked_tp: int, tp: int, heads: tuple[int, int]) -> None:
    assert small_heads(ModelConfig.load(CONFIGS / f"model/{name}.yaml"), asked_tp, tp) == heads


@pytest.mark.parametrize("path", sorted((CONFIGS / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_model_can_be_shrunk(path: object) -> None:
    model = ModelConfig.load(str(path))
    tp = 2 if model.num_attention_heads % 2 == 0 else 1
    small = small_model(model, [pair(f"tp{tp}-pp2", f"tp{tp}-pp2"), pair("pp4", "pp4")], seq_length=2048)
    assert small.problems() == []
    assert (small.num_layers, small.num_attention_heads % tp, small.num_parameters() < 1e7) == (4, 0, True)
    assert int(small.rotary_percent * small.head_dim) % 2 == 0


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["pp2"], 4),
        (["pp4-vpp2"], 8),
        (["pp3", "pp4"], 12),
        (["pp2-first1"], 4),  # 1, 3
        (["pp4-first1-last1"], 6),  # 1, 2, 2, 1
        (["pp2-vpp2-first2-last4"], 6),
        (["pp4-first1", "pp2"], 10),  # 1, 3, 3, 3
    ],
)
def test_the_layers_fit_every_layout_and_uneven_stages_are_uneven(names: list[str], layers: int) -> None:
    assert small_depth([NamedLayout.of(name).ranks for name in names]) == layers


def test_layouts_that_no_number_of_layers_fits_are_an_error() -> None:
    with pytest.raises(ConfigError, match="no number of layers of a small model fits all layouts"):
        small_depth([NamedLayout.of("pp2-first1-last2").ranks, NamedLayout.of("pp4").ranks])


def test_a_sliding_window_keeps_its_share_of_the_row() -> None:
    model = ModelConfig.load(CONFIGS / "model/mistral_7b.yaml")
    assert small_model(model, [pair("pp2", "pp2")], seq_length=8192).sliding_window == 64
    assert small_model(model, [pair("pp2", "pp2")], seq_length=2048).sliding_window == 4096  # not in force


def test_micro_batches_are_those_of_the_run_up_to_two_a_stage() -> None:
    def number(size: int | None, name: str) -> int:
        config = config_from_settings({"global_batch_size": size, "micro_batch_size": 2}, "test")
        return micro_batches(config, pair(name, name))

    assert number(64, "pp4") == 8
    assert number(4, "pp4") == 2  # fewer micro-batches than stages
    assert number(12, "pp4-vpp2") == 4
    assert number(None, "pp2-dp2") == 4


def test_settings_without_randomness_and_with_the_recomputation_of_the_run() -> None:
    settings = {
        "hidden_dropout": 0.25, "lima_dropout": True, "neftune_noise_alpha": 5.0, "bf16": True, "packing": True,
        "recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 10, "clip_grad": 0.5,
        "lr_warmup_iters": 100, "save": "checkpoints", "seq_length": 4096, "train_data_path": ["a"], "skip_iters": [1],
    }  # fmt: skip
    config = config_from_settings(settings, "test")
    small = small_config(config, "sample", num_micro_batches=4)
    assert (small.model.hidden_dropout, small.model.lima_dropout, small.model.neftune_noise_alpha) == (0.0, False, 0.0)
    assert (small.model.recompute_granularity, small.checkpoint.save, small.optimizer.skip_iters) == (None, None, ())
    assert (small.data.train_data_path, small.data.seq_length, small.data.packing) == (("sample",), 128, True)
    assert (small.optimizer.clip_grad, small.lr_schedule.lr_warmup_iters) == (0.5, 0)
    assert (small.batch.global_batch_size, small.batch.train_iters) == (4, 3)
    laid_out = in_layout(small, NamedLayout.of("pp2"), config.model)
    assert (laid_out.model.recompute_method, laid_out.model.recompute_num_layers) == ("block", 1)
    assert laid_out.parallel.pipeline_model_parallel_size == 2
