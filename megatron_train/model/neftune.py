"""NEFTune: add uniform noise of size alpha / sqrt(tokens x hidden size) to the embeddings in training.

Source: "NEFTune: Noisy Embeddings Improve Instruction Finetuning" (arXiv 2310.05914). `tokens` is the length of the row
with its padding, as in Hugging Face's implementation.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor


class NeftuneNoise:
    """Forward hook of LanguageModelEmbedding. Its output is [s, b, h], or [s / tp, b, h] under sequence parallelism."""

    def __init__(self, alpha: float, sequence_parallel: bool) -> None:
        self.alpha, self.sequence_parallel = alpha, sequence_parallel

    def __call__(self, embedding: Any, inputs: Any, output: Tensor) -> Tensor | None:
        if not embedding.training:
            return None
        tokens = output.shape[0]
        stream: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.sequence_parallel:  # each rank holds different positions and draws its own noise
            tokens *= parallel_state.get_tensor_model_parallel_world_size()
            stream = tensor_parallel.get_cuda_rng_tracker().fork()
        with stream:
            noise = torch.empty_like(output).uniform_(-1, 1)
        return output + noise * (self.alpha / (tokens * output.shape[2]) ** 0.5)
