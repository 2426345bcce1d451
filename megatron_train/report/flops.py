"""Compute the FLOPs of training and look up the peak FLOP/s of GPUs.

This module does not import torch, so that both the reports and the planner can use it.
"""

from __future__ import annotations

from megatron_train.config.model_config import ModelConfig

PEAK_TFLOPS = {
    "H200": 989.0,
    "H200 NVL": 835.0,
    "H100": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "GH200": 989.0,
    "A100": 312.0,
    "B200": 2250.0,
    "L40S": 362.0,
    "A10G": 70.0,
}
"""Part of a GPU's name -> its peak dense bf16 TFLOP/s from the data sheet. The longest part found in a name counts."""


def peak_flops(given_tflops: float | None, device_name: str | None) -> float | None:
    """Return the peak FLOP/s of one device: `given_tflops` if set, else PEAK_TFLOPS's value for its name, else None.

    A MIG slice, a part of a GPU, has no known peak, because its name is that of the whole GPU.
    """
    if given_tflops:
        return given_tflops * 1e12
    if device_name is None or "MIG" in device_name:
        return None
    fits = [part for part in PEAK_TFLOPS if part in device_name]
    return PEAK_TFLOPS[max(fits, key=len)] * 1e12 if fits else None


def model_flops(model: ModelConfig, num_tokens: int, squared_lengths: int) -> float:
    """Return the FLOPs of a forward and backward pass over `num_tokens` positions.

    Each weight costs 6 FLOPs per token, the output layer included. Causal attention costs in proportion to
    `squared_lengths`, the sum of the squared document lengths. Embedding look-ups and recomputation do not count.
    """
    weights = model.num_layers * model.parameters_per_layer() + model.padded_vocab * model.hidden_size
    attention = 6 * model.num_layers * model.num_attention_heads * model.head_dim * squared_lengths
    return 6.0 * weights * num_tokens + attention
