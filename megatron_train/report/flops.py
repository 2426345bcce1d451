"""FLOPs of training and the peak of devices. Torch-free: the reports and the planner share it."""

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
"""Dense bf16 TFLOP/s by a part of the device's name, from data sheets. The longest part that fits counts."""


def peak_flops(given_tflops: float | None, device_name: str | None) -> float | None:
    """Return the FLOP/s of one device: the given peak, else the table's value for its name, else None.

    A MIG slice has no peak here: its name is that of the whole device.
    """
    if given_tflops:
        return given_tflops * 1e12
    if device_name is None or "MIG" in device_name:
        return None
    fits = [part for part in PEAK_TFLOPS if part in device_name]
    return PEAK_TFLOPS[max(fits, key=len)] * 1e12 if fits else None


def model_flops(model: ModelConfig, num_tokens: int, squared_lengths: int) -> float:
    """Return the FLOPs of a forward and backward pass over `num_tokens` positions.

    Each weight costs 6 FLOPs per token. Causal attention costs by the sum of squared document lengths. Embedding
    look-ups cost nothing, and recomputation is not useful work, so neither counts; the output layer counts.
    """
    weights = model.num_layers * model.parameters_per_layer() + model.padded_vocab * model.hidden_size
    attention = 6 * model.num_layers * model.num_attention_heads * model.head_dim * squared_lengths
    return 6.0 * weights * num_tokens + attention
