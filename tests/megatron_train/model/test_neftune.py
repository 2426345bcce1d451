"""The size of the noise, and that it stays out of evaluation."""

from __future__ import annotations

import torch
from torch import nn

from megatron_train.model.neftune import NeftuneNoise


def test_noise_is_uniform_up_to_alpha_over_the_root_of_tokens_times_hidden() -> None:
    torch.manual_seed(0)
    module, zeros = nn.Identity(), torch.zeros(50, 2, 32)
    noisy = NeftuneNoise(alpha=5.0, sequence_parallel=False)(module, (), zeros)
    bound = 5.0 / (50 * 32) ** 0.5
    assert noisy is not None
    assert 0.99 * bound < noisy.abs().max() <= bound
    assert abs(float(noisy.std()) - bound / 3**0.5) < 0.02 * bound


def test_evaluation_has_no_noise() -> None:
    module = nn.Identity().eval()
    assert NeftuneNoise(alpha=5.0, sequence_parallel=False)(module, (), torch.zeros(4, 1, 8)) is None
