"""The positions of a micro-batch that have loss, so that the loss is computed for these alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """The n positions with loss among b rows of s positions."""

    positions: Tensor
    """[n] index of each target in hidden states [s * b, hidden], which megatron-core lays out by position, then row."""
    labels: Tensor
    """[n] token id to predict at each target position."""
    weights: Tensor
    """[n] weight of each target in the loss, above 0."""


def target_arrays(
    labels: NDArray[np.int64], loss_mask: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return (positions, labels, weights) of the positions with loss, given `labels` and `loss_mask` [b, s].

    >>> target_arrays(np.array([[5, 6], [7, 8]]), np.array([[0, 1], [0.5, 0]], dtype=np.float32))
    (array([1, 2]), array([7, 6]), array([0.5, 1. ], dtype=float32))
    """
    weights = loss_mask.T.ravel()
    positions = np.flatnonzero(weights > 0)
    return positions, labels.T.ravel()[positions], weights[positions]
