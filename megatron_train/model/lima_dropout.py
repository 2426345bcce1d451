"""LIMA dropout: the residual dropout rate grows linearly from 0 in the first layer to `dropout` in the last.

    >>> [round(lima_rate(0.25, layer, 80), 5) for layer in (1, 2, 40, 79, 80)]
    [0.0, 0.00316, 0.12342, 0.24684, 0.25]

Source: "LIMA: Less Is More for Alignment" (arXiv 2305.11206) and Megatron-LLM's --lima_dropout. With LIMA dropout, the
embedding dropout is 0 by default.
"""

from __future__ import annotations

from typing import Any


def lima_rate(dropout: float, layer_number: int, num_layers: int) -> float:
    """Return the LIMA dropout rate of layer `layer_number`, counted from 1 over all pipeline stages.

    The only layer of a model with one layer gets 0.
    """
    return dropout * (layer_number - 1) / max(1, num_layers - 1)


def set_residual_dropout(decoder: Any, dropout: float, lima: bool, num_layers: int) -> None:
    """Set the residual dropout rate of every layer of `decoder`, a TransformerBlock.

    Every layer gets the rate `dropout`, or with `lima` the rate that `lima_rate` returns for it.
    """
    for layer in decoder.layers:
        layer.hidden_dropout = lima_rate(dropout, layer.layer_number, num_layers) if lima else dropout
