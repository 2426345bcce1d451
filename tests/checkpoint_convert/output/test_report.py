"""A conversion's report counts and names tensors with bad numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from checkpoint_convert.output.report import Report, named
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo


class Sink:
    """A target that discards every block."""

    def write(self, name: str, info: TensorInfo, blocks: Iterable[torch.Tensor]) -> None:
        for _ in blocks:
            pass


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("number", range(3))
def test_one_bad_number_in_any_block_is_noted(bad: float, number: int) -> None:
    report, parts = Report(Path("out")), [torch.ones(2, 4) for _ in range(3)]
    report.write(Sink(), "sound", parts, torch.float16)
    parts[number][1, 2] = bad
    report.write(Sink(), "bad", parts, torch.float16)

    assert report.not_finite == ["bad"]
    assert (report.num_tensors, report.num_bytes) == (2, 96)


@pytest.mark.parametrize("number", range(3))
def test_a_number_too_large_in_any_block_is_refused(number: int) -> None:
    parts = [torch.ones(2, 4) for _ in range(3)]
    parts[number][1, 2] = 1e6
    with pytest.raises(ConvertError, match="bad: has numbers too large for float16; use --dtype bf16 or fp32"):
        Report(Path("out")).write(Sink(), "bad", parts, torch.float16)


def test_eight_are_named() -> None:
    assert named(list("abcdefgh")) == "a, b, c, d, e, f, g, h"
    assert named(list("abcdefghij")) == "a, b, c, d, e, f, g, h and 2 more"
