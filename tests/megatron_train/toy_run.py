"""Small training runs for tests, out of the trainer's own parts: the same calls as in train.py, one after another."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from torch import Tensor

from megatron_train.checkpoint.resume import Start
from megatron_train.checkpoint.save_load import (
    Contents,
    _sharded_state_dict,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.flags import CommandLine, config_from_settings
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.config.validate import validate, validate_model
from megatron_train.data.batch import Document
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.loader import BatchMaker
from megatron_train.data.sft_dataset import Samples, training_samples
from megatron_train.model.build import build_model
from megatron_train.optim.optimizer import build_optimizer, wrap_model
from megatron_train.parallel.distributed import init_distributed, seed_rank, world_size
from megatron_train.report.metrics import StepReport
from megatron_train.report.phases import PhaseTimer
from megatron_train.train import loss_rule, train_step
from tests.conftest import TINY_LLAMA

LLAMA = TINY_LLAMA
_BIASED: dict[str, Any] = {
    "num_query_groups": 4,
    "ffn_hidden_size": 256,
    "normalization": "LayerNorm",
    "gated_linear_unit": False,
    "activation": "gelu",
    "add_bias_linear": True,
    "rotary_percent": 0.25,
}
MODELS: dict[str, ModelConfig] = {
    "llama": LLAMA,
    "neox_parallel": replace(LLAMA, family="gpt_neox", parallel_residual=True, **_BIASED),
    "neox_sequential": replace(LLAMA, family="gpt_neox", **_BIASED | {"activation": "gelu_tanh"}),
    "falcon_7b": replace(
        LLAMA,
        family="falcon",
        parallel_residual=True,
        shared_norm=True,
        share_embeddings_and_output_weights=True,
        **_BIASED | {"add_bias_linear": False, "num_query_groups": 1, "rotary_percent": 1.0},
    ),
    "falcon_40b": replace(
        LLAMA,
        family="falcon",
        parallel_residual=True,
        share_embeddings_and_output_weights=True,
        **_BIASED | {"add_bias_linear": False, "num_query_groups": 2, "rotary_percent": 1.0},
    ),
}


_entered: ParallelLayout | None = None


@dataclass
class ToyRun:
    """A run between two iterations."""

    config: TrainConfig
    layout: ParallelLayout
    model: ModelConfig
    chunks: list[Any]
    optimizer: Any
    samples: Samples
    make_batch: BatchMaker
    state: TrainState

    def step(self) -> StepReport:
        self.state, report = train_step(
            self.state,
            self.config,
            self.layout,
            self.model,
            self.chunks,
            self.optimizer,
            self.samples,
            self.make_batch,
            PhaseTimer(),
        )
        return report

    def save(self, folder: Path) -> Path:
        checkpoint = replace(self.config.checkpoint, save=str(folder))
        config = replace(self.config, checkpoint=checkpoint)
        return save_checkpoint(Contents(config, self.model, self.state, self.chunks, self.optimizer, self.layout))


def start(model: ModelConfig, settings: dict[str, Any], weights: Path | None = None, resume: bool = False) -> ToyRun:
    """A run with the flat `settings` of a YAML file, from random weights or a checkpoint folder (`resume`: wholly)."""
    config = config_from_settings({"train_iters": 100, "seq_length": 48} | settings, "test")
    command = CommandLine(config, {}, {})
    validate(command, ParallelLayout.planned(config.parallel, world_size()))
    layout = enter_layout(config)
    validate_model(command, model, layout)
    num_samples = config.batch.train_iters * layout.global_batch_size(config.batch)
    samples = training_samples(config.data, num_samples, config.batch.seed)
    chunks = build_model(model, config)
    if weights is not None and not resume:
        load_weights(weights, chunks)
    else:
        perturb_parameters(chunks)
    chunks = wrap_model(chunks, config)
    optimizer = build_optimizer(chunks, config)
    seed_rank(config.batch.seed)  # the random initial weights were drawn from the same streams
    state = (
        load_checkpoint(Start(weights, True), config, chunks, optimizer, layout) if weights and resume else TrainState()
    )
    make_batch = BatchMaker(config.data, loss_rule(config), 0, model.vocab_size)
    return ToyRun(config, layout, model, chunks, optimizer, samples, make_batch, state)


def enter_layout(config: TrainConfig) -> ParallelLayout:
    """As init_distributed, but keeps the groups of the run before when the layout is the same: each has its threads."""
    global _entered
    planned = ParallelLayout.planned(config.parallel, world_size())
    if planned == _entered and dist.is_initialized() and parallel_state.model_parallel_is_initialized():
        seed_rank(config.batch.seed)
        return planned
    gc.collect()  # the run before holds its groups in reference cycles
    _entered = init_distributed(config.parallel, config.batch.seed)
    return _entered


def perturb_parameters(chunks: list[Any]) -> None:
    """Norms start at one and biases at zero, where a wrong layout would not show: move them."""
    with torch.no_grad():
        for chunk in chunks:
            for parameter in chunk.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                else:
                    parameter.mul_(3.0)


def full_parameters(chunks: list[Any]) -> tuple[dict[str, Tensor], float]:
    """(every tensor of the model, put together from the shards of all ranks, fp32; largest difference between copies).

    Copies are what several ranks hold alike: everything over data-parallel ranks, norms over tensor-parallel ranks,
    tied embeddings over the first and the last stage. The same on every rank.
    """
    state_dict = _sharded_state_dict(chunks, None, loading=False)
    apply_factories(state_dict)
    own = [
        (shard.key, shard.global_shape, shard.global_offset, shard.data.detach().float().clone())
        for shard in nested_values(state_dict)
        if isinstance(shard, ShardedTensor)
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    full: dict[str, Tensor] = {}
    apart = 0.0
    for key, shape, offset, tensor in (item for shards in everyone for item in shards):
        target = full.setdefault(key, torch.full(shape, float("nan")))
        tensor = tensor.reshape((1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape))
        place = tuple(slice(o, o + n) for o, n in zip(offset, tensor.shape, strict=True))
        if not target[place].isnan().any():
            apart = max(apart, float((target[place] - tensor).abs().max()))
        target[place] = tensor
    return full, apart


def full_gradients(chunks: list[Any]) -> dict[str, Tensor]:
    """As full_parameters, of the gradients of the last iteration. For one data-parallel rank: else each has a share."""
    kept = [(parameter, parameter.data) for chunk in chunks for parameter in chunk.parameters()]
    for parameter, _ in kept:
        parameter.data = parameter.main_grad.clone().view(parameter.shape)
    gradients = full_parameters(chunks)[0]
    for parameter, data in kept:
        parameter.data = data
    return gradients


def losses_one_by_one(run: ToyRun, documents: list[Document]) -> tuple[Tensor, int, int]:
    """(summed loss, targets, right ones) with every document alone, by torch's own cross-entropy from the logits."""
    total, targets, right = torch.zeros(()), 0, 0
    for tokens, roles in documents:
        ids = torch.tensor(tokens.astype(np.int64))[None]
        logits = run.chunks[0](ids[:, :-1], torch.arange(ids.shape[1] - 1)[None], None)
        wanted = torch.tensor(roles[1:].astype(np.int64)) == 2
        picked, labels = logits[0][wanted], ids[0, 1:][wanted]
        total = total + torch.nn.functional.cross_entropy(picked, labels, reduction="sum")
        targets, right = targets + len(labels), right + int((picked.argmax(-1) == labels).sum())
    return total, targets, right


def documents_of(prefix: str) -> list[Document]:
    documents = DocumentSet([prefix])
    return [documents.piece(index, 0, int(size)) for index, size in enumerate(documents.lengths)]
