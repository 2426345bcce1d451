"""LIMA dropout: residual dropout that grows linearly from 0 in the first layer to `dropout` in the last.

    >>> [round(lima_rate(0.25, layer, 80), 5) for layer in (1, 2, 40, 79, 80)]
    [0.0, 0.00316, 0.12342, 0.24684, 0.25]

Source: "LIMA: Less Is More for Alignment" (arXiv 2305.11206) and Megatron-LLM's --lima_dropout. Embedding dropout is 0
with it.
"""

from __future__ import annotations

from typing import Any


def lima_rate(dropout: float, layer_number: int, num_layers: int) -> float:
    """Rate of the 1-based global `layer_number` of `num_layers`; 0 when there is one layer only."""
    return dropout * (layer_number - 1) / max(1, num_layers - 1)


def set_residual_dropout(decoder: Any, dropout: float, lima: bool, num_layers: int) -> None:
    """Gives every layer of a megatron-core TransformerBlock its rate. `layer_number` is global, so pipeline stages
    agree.
    """
    for layer in decoder.layers:
        layer.hidden_dropout = lima_rate(dropout, layer.layer_number, num_layers) if lima else dropout
