"""FLOPs of training, and what devices can do: torch-free, shared by the reports and the planner."""

from __future__ import annotations

from megatron_train.config.model_config import ModelConfig

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "GH200": 989.0, "A100": 312.0, "B200": 2250.0, "L40S": 362.0, "A10G": 70.0}
"""Dense bf16 TFLOP/s by a part of the device's name, from the vendor's data sheets."""


def model_flops(model: ModelConfig, num_tokens: int, squared_lengths: int) -> float:
    """FLOPs of a forward and backward pass over `num_tokens` positions: 6 per weight and token, and causal attention by
    sum of len^2.

    Embedding look-ups cost nothing and are left out; the output layer is in. Recomputation is not useful work and is
    not counted.
    """
    weights = model.num_layers * model.parameters_per_layer() + model.padded_vocab * model.hidden_size
    attention = 6 * model.num_layers * model.num_attention_heads * model.head_dim * squared_lengths
    return 6.0 * weights * num_tokens + attention
