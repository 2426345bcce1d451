"""SHARED: the logits of a checkpoint, computed in this process alone.

    logits = single_process_logits(Path("checkpoints/tiny/release"), [[1, 306, 4658]])      # [1, 3, vocabulary rows]

The converter compares these logits with those of the Hugging Face folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from megatron.core import parallel_state

from megatron_train.checkpoint.folder import MODEL_CONFIG
from megatron_train.checkpoint.save_load import load_weights
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.settings import TrainConfig
from megatron_train.model.build import build_model
from megatron_train.parallel.device import DEVICE_VARIABLE, install
from megatron_train.parallel.distributed import init_distributed, shutdown


def single_process_logits(checkpoint_folder: Path, token_ids: list[list[int]]) -> torch.Tensor:
    """Return fp32 logits [b, s, vocabulary rows] of a checkpoint folder (iter_* or release) for token ids [b, s].

    The function starts a process group of one rank and ends it again. It computes on the CPU in fp32, so that the
    result does not depend on the GPUs of this machine. The model must fit into memory.
    Raises CheckpointError when the folder does not hold the whole model.
    """
    os.environ[DEVICE_VARIABLE] = "cpu"
    install()
    config = TrainConfig()
    init_distributed(config.parallel, seed=0)
    try:
        model_config = ModelConfig.load(checkpoint_folder / MODEL_CONFIG)
        chunks = build_model(model_config, config, random_weights=False)
        load_weights(checkpoint_folder, chunks)
        tokens = torch.tensor(token_ids)
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        chunks[0].eval()
        with torch.no_grad():
            logits: torch.Tensor = chunks[0](tokens, positions, None)
        return logits[..., : model_config.vocab_size].float()
    finally:
        parallel_state.destroy_model_parallel()
        shutdown()
