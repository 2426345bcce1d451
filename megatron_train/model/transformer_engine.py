"""Use megatron-core's Transformer Engine layers instead of its local ones: --transformer_impl transformer_engine.

    check_transformer_engine(config)              # raises ConfigError naming the package to install
    spec = transformer_engine_layer(model)        # the layer spec for GPTModel

Both kinds of layers store their norms under the same names (config/norm_names.py), so each loads the checkpoints of
the other. The layers need CUDA and the package `transformer_engine`. No machine that tested this release has both, so
they are untested.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from megatron.core.models.gpt import gpt_layer_specs
from megatron.core.transformer import ModuleSpec
from torch import Tensor

from megatron_train.config.model_config import ModelConfig
from megatron_train.config.settings import TrainConfig
from megatron_train.model.layers import ParallelResidualLayer
from megatron_train.model.swiglu import GatedSilu
from megatron_train.parallel.device import uses_cuda
from pretokenizer.config.yaml_config import ConfigError

INSTALL = "pip install --no-build-isolation 'transformer_engine[pytorch]'"


def check_transformer_engine(config: TrainConfig) -> None:
    """Raise ConfigError when the settings ask for Transformer Engine and this machine cannot run it."""
    if config.model.transformer_impl != "transformer_engine":
        return
    if importlib.util.find_spec("transformer_engine") is None:
        raise ConfigError(
            f"transformer_impl transformer_engine: the package is missing or broken ({INSTALL}); "
            "--transformer_impl local needs nothing more"
        )
    if not uses_cuda():
        raise ConfigError("transformer_impl transformer_engine needs a CUDA device; --transformer_impl local runs here")


def packed_as_thd(core_attention: Any) -> Any:
    """Return a subclass of Transformer Engine's attention class `core_attention` that also accepts packed rows.

    A packed row arrives as tensors [tokens, 1, heads, head size] and a PackedRow. The engine needs them in its `thd`
    format, [tokens, heads, head size].
    """

    class ThdAttention(core_attention):
        def forward(
            self, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, packed_seq_params: Any = None, **rest: Any
        ) -> Tensor:
            if packed_seq_params is None:
                return torch.as_tensor(super().forward(query, key, value, *arguments, **rest))
            row = [x.squeeze(1) for x in (query, key, value)]
            out = super().forward(*row, *arguments, packed_seq_params=packed_seq_params.in_thd_format(), **rest)
            return torch.as_tensor(out.reshape(out.shape[0], 1, -1))

    return ThdAttention


def transformer_engine_layer(model: ModelConfig) -> ModuleSpec:
    """Return the spec of megatron-core's Transformer Engine layer, with this project's parallel residual and SwiGLU."""
    spec = gpt_layer_specs.get_gpt_layer_with_transformer_engine_spec(qk_layernorm=model.qk_layernorm)
    layer = spec.submodules
    # In megatron-core 0.19, the MLP is not a ModuleSpec but a partial call.
    mlp = layer.mlp.submodules if isinstance(layer.mlp, ModuleSpec) else layer.mlp.keywords["submodules"]
    if model.is_swiglu:
        mlp.activation_func = GatedSilu
    attention = layer.self_attention.submodules
    attention.core_attention = packed_as_thd(attention.core_attention)
    if model.parallel_residual:
        spec.module = ParallelResidualLayer
    if model.shared_norm:  # a norm that attention and MLP share cannot be fused into two linear layers
        backend = gpt_layer_specs.TESpecProvider()
        layer.input_layernorm = backend.layer_norm()
        layer.self_attention.submodules.linear_qkv = backend.column_parallel_linear()
        mlp.linear_fc1 = backend.column_parallel_linear()
    return spec
