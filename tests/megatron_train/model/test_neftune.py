"""The size of the noise depends on the document only, and evaluation has no noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from megatron_train.model.neftune import NeftuneNoise


def noise_of(position_ids: Tensor, hidden: int = 32) -> Tensor:
    """Return [s, b, hidden] noise on embeddings of zero."""
    zeros = torch.zeros(*reversed(position_ids.shape), hidden)
    noise = NeftuneNoise(alpha=5.0, sequence_parallel=False)(nn.Identity(), (), {"position_ids": position_ids}, zeros)
    assert noise is not None
    return noise


def test_noise_is_uniform_up_to_alpha_over_the_root_of_tokens_times_hidden() -> None:
    torch.manual_seed(0)
    noise, bound = noise_of(torch.arange(50).expand(2, 50)), 5.0 / (50 * 32) ** 0.5
    assert 0.99 * bound < noise.abs().max() <= bound
    assert abs(float(noise.std()) - bound / 3**0.5) < 0.02 * bound


def test_each_document_of_a_packed_row_has_noise_of_its_own_size() -> None:
    torch.manual_seed(0)
    noise = noise_of(torch.cat([torch.arange(400), torch.arange(100)])[None])
    for document, tokens in ((noise[:400], 400), (noise[400:], 100)):
        bound = 5.0 / (tokens * 32) ** 0.5
        assert 0.99 * bound < document.abs().max() <= bound


def test_padding_does_not_change_the_noise_of_a_document() -> None:
    torch.manual_seed(0)
    noise = noise_of(torch.cat([torch.arange(100), torch.arange(300)])[None])
    assert 0.99 < noise[:100].abs().max() * (100 * 32) ** 0.5 / 5.0 <= 1


def test_evaluation_has_no_noise() -> None:
    module, positions = nn.Identity().eval(), {"position_ids": torch.zeros(1, 4, dtype=torch.long)}
    assert NeftuneNoise(alpha=5.0, sequence_parallel=False)(module, (), positions, torch.zeros(4, 1, 8)) is None
