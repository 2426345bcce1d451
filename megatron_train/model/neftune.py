"""NEFTune: add uniform noise of size alpha / sqrt(tokens x hidden size) to the embeddings in training.

Source: "NEFTune: Noisy Embeddings Improve Instruction Finetuning" (arXiv 2310.05914). `tokens` is the length of the
document that a position belongs to, so neither padding nor packing changes the size of the noise.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor


class NeftuneNoise:
    """Forward hook that adds NEFTune noise to the output of LanguageModelEmbedding in training.

    The output is [positions, rows, hidden size]; under sequence parallelism, each rank has its part of the positions.
    Register the hook with `with_kwargs=True`, because it reads `position_ids`.
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
    """Return, for each position, the length of the document that it belongs to, as a tensor [rows, positions].

    `position_ids` has the same shape and restarts at 0 in each document.

    >>> document_lengths(torch.tensor([[0, 1, 2, 0], [0, 1, 0, 1]])).tolist()
    [[3, 3, 3, 1], [2, 2, 2, 2]]
    """
    document = (position_ids == 0).flatten().cumsum(0) - 1
    # torch.bincount reads its largest value on the host, which waits for the GPU.
    lengths = torch.zeros_like(document).scatter_add_(0, document, torch.ones_like(document))
    return lengths[document].view(position_ids.shape)
