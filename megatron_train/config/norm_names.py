"""SHARED, torch-free: the names of layer norms on disk, which are megatron-core's.

megatron-core stores each norm under the linear layer after it, because Transformer Engine fuses the two:

    module                                     on disk, all layers stacked in one tensor
    decoder.layers.0.input_layernorm.weight    decoder.layers.self_attention.linear_qkv.layer_norm_weight
    decoder.layers.0.pre_mlp_layernorm.weight  decoder.layers.mlp.linear_fc1.layer_norm_weight

A norm that attention and MLP share (Falcon-7B) belongs to two linear layers, so it keeps the name `input_layernorm`.
Checkpoints of this project from before November 2026 use the module names for all norms, and can still be loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

STOCK_NORM_NAMES = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}
"""Part of a norm's key: in the module -> on disk, as in megatron-core's layer specs."""


def stock_name(key: str) -> str:
    """Return a weight's key on disk, given its key in the module. Keys of other weights than norms stay the same."""
    for module, stock in STOCK_NORM_NAMES.items():
        key = key.replace(module, stock)
    return key


def module_name(key: str) -> str:
    """Return a weight's key in the module, given its key on disk. Keys of other weights than norms stay the same."""
    for module, stock in STOCK_NORM_NAMES.items():
        key = key.replace(stock, module)
    return key


def uses_module_names(keys: Iterable[str]) -> bool:
    """Return whether the tensor `keys` of a checkpoint name all norms as in the module.

    This is the case if the checkpoint is old, or if attention and MLP share each norm.
    """
    return not any(stock in key for key in keys for stock in STOCK_NORM_NAMES.values())
