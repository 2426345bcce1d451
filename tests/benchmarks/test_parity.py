"""How the GPU report compares tensors by a few numbers."""

from __future__ import annotations

import torch

from benchmarks.gpu_parts import parity


def test_a_fingerprint_measures_the_difference_of_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(300, 40, generator=generator)
    noise = torch.randn(300, 40, generator=generator) * 0.01
    expected = parity.fingerprint("weight", tensor)
    assert parity.apart(parity.fingerprint("weight", tensor), expected) == 0.0
    assert 0.003 < parity.apart(parity.fingerprint("weight", tensor + noise), expected) < 0.03
