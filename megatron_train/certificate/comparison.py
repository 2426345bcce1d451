"""Record the results of a few training iterations, and measure the differences between two such records.

    difference = compare(trace, reference)
    difference.gradient     # the largest one: Worst(relative=3.1e-07, name="decoder.final_norm.weight", iteration=2)

Differences of tensors are relative to the largest value of the tensor in the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trace:
    """The results of a run of n iterations. Tensors are whole and in fp32, by their names in a checkpoint."""

    losses: list[float]
    grad_norms: list[float]
    gradients: list[dict[str, Tensor]]
    """[n] gradients of each iteration, reduced over all ranks, before clipping."""
    updates: dict[str, Tensor]
    """Weights after the last iteration minus the weights before the first one."""
    rounding: dict[str, float]
    """Tensor -> largest difference between two correct updates that the rounding of the weights can cause."""
    copies_apart: float
    """Largest absolute difference between two ranks that hold copies of the same gradient or weight."""
    num_applied: int
    """Number of iterations that updated the weights."""

    def save(self, path: Path) -> None:
        torch.save(vars(self), path)

    @classmethod
    def load(cls, path: Path) -> Trace:
        return cls(**torch.load(path, weights_only=True, mmap=True))


@dataclass(frozen=True)
class Worst:
    """The largest relative difference of one kind, such as gradients, and the place where it occurs."""

    relative: float
    name: str = ""
    """Name of the parameter; empty for a loss or a gradient norm."""
    iteration: int | None = None
    """Iteration, counted from 1; None for an update of all iterations."""


@dataclass(frozen=True)
class Difference:
    """The largest differences between a run and its reference."""

    loss: Worst
    grad_norm: Worst
    gradient: Worst
    update: Worst
    copies_apart: float
    num_applied: int
    """Number of iterations that updated the weights in both runs; -1 when the two runs have different numbers."""


def compare(trace: Trace, reference: Trace) -> Difference:
    """Return the largest differences of `trace` from `reference`, two runs of the same number of iterations.

    A tensor that only one of them has differs infinitely.
    """
    gradients = (
        Worst(tensor.relative, tensor.name, iteration)
        for iteration, (own, expected) in enumerate(zip(trace.gradients, reference.gradients, strict=True), start=1)
        for tensor in _tensor_differences(own, expected)
    )
    same_updates = trace.num_applied == reference.num_applied
    return Difference(
        loss=_largest(_number_differences(trace.losses, reference.losses)),
        grad_norm=_largest(_number_differences(trace.grad_norms, reference.grad_norms)),
        gradient=_largest(gradients),
        update=_largest(_tensor_differences(trace.updates, reference.updates, reference.rounding)),
        copies_apart=trace.copies_apart,
        num_applied=trace.num_applied if same_updates else -1,
    )


def _largest(differences: Iterable[Worst]) -> Worst:
    return max(differences, key=lambda worst: worst.relative)


def _number_differences(values: list[float], expected: list[float]) -> list[Worst]:
    """Return the relative difference in each iteration. A value that is not finite differs infinitely."""
    return [
        Worst(_relative(abs(own - other), abs(other)), "", iteration)
        for iteration, (own, other) in enumerate(zip(values, expected, strict=True), start=1)
    ]


def _tensor_differences(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], rounding: dict[str, float] | None = None
) -> list[Worst]:
    """Return the relative difference of each tensor beyond its `rounding`; infinity if only one side has the tensor."""
    found = [Worst(math.inf, name) for name in tensors.keys() ^ expected.keys()]
    for name in tensors.keys() & expected.keys():
        apart = float((tensors[name] - expected[name]).abs().max())
        apart = max(0.0, apart - rounding[name]) if rounding else apart
        found.append(Worst(_relative(apart, float(expected[name].abs().max())), name))
    return found


def _relative(apart: float, size: float) -> float:
    if apart == 0.0 and math.isfinite(size):
        return 0.0
    return apart / size if size and math.isfinite(apart) and math.isfinite(size) else math.inf
