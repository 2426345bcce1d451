from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from megatron_train.certificate.comparison import Trace, Worst, compare

NORM, BIAS = torch.tensor([1.0, -4.0]), torch.tensor([0.0, 0.5])
TRACE = Trace(
    losses=[2.0, 1.0],
    grad_norms=[8.0, 4.0],
    gradients=[{"norm": NORM, "bias": BIAS}, {"norm": NORM, "bias": BIAS}],
    updates={"norm": NORM, "bias": BIAS},
    rounding={"norm": 0.0, "bias": 0.25},
    copies_apart=0.0,
    num_applied=2,
)


def test_equal_runs_have_no_difference() -> None:
    difference = compare(TRACE, TRACE)
    assert [difference.loss.relative, difference.grad_norm.relative] == [0.0, 0.0]
    assert [difference.gradient.relative, difference.update.relative] == [0.0, 0.0]
    assert (difference.copies_apart, difference.num_applied) == (0.0, 2)


def test_the_worst_difference_has_its_parameter_and_iteration() -> None:
    other = replace(
        TRACE,
        losses=[2.0, 1.5],
        grad_norms=[6.0, 4.0],
        gradients=[TRACE.gradients[0], {"norm": NORM + torch.tensor([1.0, 0.0]), "bias": BIAS}],
        updates={"norm": NORM, "bias": torch.tensor([0.5, 0.5])},
        num_applied=1,
    )
    difference = compare(other, TRACE)
    assert difference.loss == Worst(0.5, "", 2)
    assert difference.grad_norm == Worst(0.25, "", 1)
    assert difference.gradient == Worst(0.25, "norm", 2)  # 1 of the largest value 4
    assert difference.update == Worst(0.5, "bias")  # 0.5 less the rounding 0.25, of the largest value 0.5
    assert difference.num_applied == -1


def test_numbers_that_are_not_finite_and_missing_tensors_differ_infinitely() -> None:
    broken = replace(TRACE, losses=[2.0, math.nan], updates={"norm": NORM})
    difference = compare(broken, TRACE)
    assert (difference.loss.relative, difference.update) == (math.inf, Worst(math.inf, "bias"))
    assert compare(broken, broken).loss.relative == math.inf
    zeros = [{"norm": NORM, "bias": BIAS * 0.0}] * 2
    assert compare(replace(TRACE, gradients=zeros), replace(TRACE, gradients=zeros)).gradient.relative == 0.0
    assert compare(TRACE, replace(TRACE, gradients=zeros)).gradient == Worst(math.inf, "bias", 1)


def test_a_trace_is_read_as_it_was_saved(tmp_path: Path) -> None:
    TRACE.save(tmp_path / "fp32.pt")
    assert compare(Trace.load(tmp_path / "fp32.pt"), TRACE) == compare(TRACE, TRACE)
