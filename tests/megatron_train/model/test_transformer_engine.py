"""Transformer Engine's layers are used when chosen, and errors name what is missing.

torch layers of the same shapes stand in for the package, which is not installed. The tests cover megatron-core's own
layer specification and our changes to it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.models.gpt import gpt_layer_specs
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

from megatron_train.checkpoint.save_load import load_weights
from megatron_train.config.flags import config_from_settings
from megatron_train.config.settings import TrainConfig
from megatron_train.data.packed_row import PackedRow
from megatron_train.model import build
from megatron_train.model.attention import TorchAttention
from megatron_train.model.norm import Norm
from megatron_train.model.transformer_engine import check_transformer_engine
from pretokenizer.config.yaml_config import ConfigError
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import MODELS
from tests.megatron_train.runs import save, start


def config_of(**settings: Any) -> TrainConfig:
    return config_from_settings(settings, "test")


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    check_transformer_engine(config_of())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"missing or broken \(pip install --no-build-isolation 'transformer_engine\[py"
    ):
        check_transformer_engine(config_of(transformer_impl="transformer_engine"))


def test_without_cuda_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA device; --transformer_impl local runs here"):
        check_transformer_engine(config_of(transformer_impl="transformer_engine"))


def test_fp8_reaches_megatron_core(single_process: None) -> None:
    settings = {"bf16": True, "transformer_impl": "transformer_engine", "fp8_format": "hybrid", "fp8_margin": 2}
    core = build.transformer_config(MODELS["llama"], config_of(**settings, fp8_recipe="tensorwise"))
    assert (core.fp8, core.fp8_recipe, core.fp8_margin) == ("hybrid", "tensorwise", 2)
    assert build.transformer_config(MODELS["llama"], config_of()).fp8 is None


class NormedLinear(ColumnParallelLinear):
    """Has layer_norm_weight and layer_norm_bias beside its own weight and bias, as TELayerNormColumnParallelLinear."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **options: Any) -> None:
        super().__init__(input_size, output_size, config=config, **options)
        self.norm_config = config
        norm = Norm(config, input_size, config.layernorm_epsilon)
        self.layer_norm_weight = norm.weight
        self.layer_norm_bias = getattr(norm, "bias", None)

    def forward(self, input_: Any, *arguments: Any, **options: Any) -> Any:
        width, epsilon = (input_.shape[-1],), self.norm_config.layernorm_epsilon
        if self.norm_config.normalization == "RMSNorm":
            normed = torch.nn.functional.rms_norm(input_, width, self.layer_norm_weight, epsilon)
        else:
            normed = torch.nn.functional.layer_norm(
                input_, width, self.layer_norm_weight, self.layer_norm_bias, epsilon
            )
        return super().forward(normed, *arguments, **options)


class ThdTorchAttention(TorchAttention):
    """Takes packed rows [t, heads, d] and their boundaries in the format thd, as Transformer Engine does."""

    def forward(self, query: Any, key: Any, value: Any, mask: Any, packed_seq_params: Any = None, **rest: Any) -> Any:
        if packed_seq_params is None:
            return super().forward(query, key, value, mask, **rest)
        assert packed_seq_params.qkv_format == "thd"
        assert query.dim() == 3
        bounds = packed_seq_params.cu_seqlens_q
        row = PackedRow.of(bounds, bounds, tuple(bounds.tolist()))
        wide = [x.unsqueeze(1) for x in (query, key, value)]
        return super().forward(*wide, mask, packed_seq_params=row, **rest).squeeze(1)


class StandIn(gpt_layer_specs.BackendSpecProvider):  # type: ignore[misc]
    """Provides layers of the same shapes as megatron-core's TESpecProvider."""

    def linear(self) -> type:
        raise AssertionError("no layer of ours has one")

    def column_parallel_linear(self) -> type:
        return ColumnParallelLinear

    def row_parallel_linear(self) -> type:
        return RowParallelLinear

    def fuse_layernorm_and_linear(self) -> bool:
        return True

    def column_parallel_layer_norm_linear(self) -> type:
        return NormedLinear

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False) -> type:
        return Norm

    def core_attention(self) -> type:
        return ThdTorchAttention

    def grouped_mlp_modules(self, *_: Any) -> Any:
        raise AssertionError("no layer of ours has one")

    def activation_func(self) -> type:
        raise AssertionError("no layer of ours has one")


@pytest.mark.parametrize("kind", MODELS)
def test_a_checkpoint_goes_from_local_layers_to_the_engines_and_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single_process: None
) -> None:
    """The model has our residual layer, LIMA dropout, masked padding rows of the vocabulary, and packed rows."""
    monkeypatch.setattr(gpt_layer_specs, "TESpecProvider", StandIn, raising=False)
    model = replace(MODELS[kind], num_layers=2)
    settings = {"train_data_path": [write_shard(tmp_path / "toy", toy_documents(8))], "packing": True}
    engine_settings = settings | {"transformer_impl": "transformer_engine"}
    local = start(model, settings | {"hidden_dropout": 0.25, "lima_dropout": True})
    folder = save(local, tmp_path / "local")
    engine = start(model, engine_settings | {"hidden_dropout": 0.25, "lima_dropout": True, "seed": 7})
    assert any(isinstance(module, NormedLinear) for module in engine.chunks[0].modules()) == (not model.shared_norm)
    rates = [[layer.hidden_dropout for layer in run.chunks[0].module.decoder.layers] for run in (local, engine)]
    assert rates == [[0.0, 0.25]] * 2
    load_weights(folder, engine.chunks)
    batch = local.make_batch(local.samples, range(2))
    logits = []
    for run in (local, engine):
        run.chunks[0].eval()
        with torch.no_grad():
            logits.append(run.chunks[0](batch.tokens, batch.position_ids, None, packed_seq_params=batch.packed))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)
    assert torch.isinf(logits[1][..., model.vocab_size :]).all()
    again = start(model, settings | {"seed": 8})
    load_weights(save(engine, tmp_path / "engine"), again.chunks)
    expected = dict(local.chunks[0].named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in again.chunks[0].named_parameters())
