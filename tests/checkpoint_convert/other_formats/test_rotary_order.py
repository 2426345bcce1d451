"""Both rotary channel orders give the expected rows for hand-written ones."""

from __future__ import annotations

import torch

from checkpoint_convert.other_formats.rotary_order import to_halves, to_interleaved


def test_orders_are_inverse_head_by_head() -> None:
    interleaved = torch.tensor([10, 20, 11, 21, 12, 22, 30, 40, 31, 41, 32, 42])
    halves = [10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42]

    assert to_halves(interleaved, 6).tolist() == halves
    assert to_interleaved(torch.tensor(halves), 6).tolist() == interleaved.tolist()
