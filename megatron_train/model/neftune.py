"""NEFTune: add uniform noise of size alpha / sqrt(tokens x hidden size) to the embeddings in training.

Source: "NEFTune: Noisy Embeddings Improve Instruction Finetuning" (arXiv 2310.05914). `tokens` counts the tokens of the
document that a position belongs to. Neither padding nor packing changes the noise of a document.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor


class NeftuneNoise:
    """Forward hook of LanguageModelEmbedding, registered with keyword arguments.

    The output of the embedding is [s, b, h], or [s / tp, b, h] under sequence parallelism.
    """

    def __init__(self, alpha: float, sequence_parallel: bool) -> None:
        self.alpha, self.sequence_parallel = alpha, sequence_parallel

    def __call__(self, embedding: Any, inputs: Any, keywords: dict[str, Tensor], output: Tensor) -> Tensor | None:
        if not embedding.training:
            return None
        lengths = document_lengths(keywords["position_ids"]).transpose(0, 1)  # [s, b]
        stream: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.sequence_parallel:  # each rank holds different positions and draws its own noise
            ranks = parallel_state.get_tensor_model_parallel_world_size()
            lengths = lengths.chunk(ranks)[parallel_state.get_tensor_model_parallel_rank()]
            stream = tensor_parallel.get_cuda_rng_tracker().fork()
        with stream:
            noise = torch.empty_like(output).uniform_(-1, 1)
        size = self.alpha / (lengths * output.shape[2]).to(torch.float32).sqrt()
        return output + noise * size.unsqueeze(-1).to(output.dtype)


def document_lengths(position_ids: Tensor) -> Tensor:
    """Return the length of the document at each position, for `position_ids` [b, s] that restart at 0 in each document.

    >>> document_lengths(torch.tensor([[0, 1, 2, 0], [0, 1, 0, 1]])).tolist()
    [[3, 3, 3, 1], [2, 2, 2, 2]]
    """
    document = (position_ids == 0).flatten().cumsum(0) - 1
    return torch.bincount(document)[document].view(position_ids.shape)
