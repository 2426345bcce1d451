"""megatron-core's GPTModel with its own layer spec, as Megatron-LM builds it: a model to compare ours with."""

from __future__ import annotations

import multiprocessing
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer import TransformerConfig

from megatron_train.config.model_config import ModelConfig


def stock_model(model: ModelConfig, tp: int, pp: int) -> Any:
    """Return this rank's part of a stock Llama-like GPTModel with random weights."""
    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tp, pp)
    model_parallel_cuda_manual_seed(1)
    config = TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.query_groups,
        kv_channels=model.head_dim,
        normalization=model.normalization,
        layernorm_epsilon=model.layernorm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=model.add_qkv_bias,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        pipeline_dtype=torch.float32,
        use_cpu_initialization=True,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        gradient_accumulation_fusion=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    return GPTModel(
        config,
        get_gpt_layer_local_spec(normalization=model.normalization),
        vocab_size=model.padded_vocab,
        max_sequence_length=model.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
        position_embedding_type="rope",
        rotary_base=int(model.rotary_base),
        rotary_percent=model.rotary_percent,
    ).eval()


def sharded(chunk: Any) -> dict[str, Any]:
    """Return the sharded state of a model chunk under megatron-core's default keys."""
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    found: dict[str, Any] = chunk.sharded_state_dict(metadata={"dp_cp_group": group})
    return found


def load_strictly(chunk: Any, folder: Path) -> None:
    """Load a checkpoint. Raises when a key of the model or of the checkpoint has no counterpart."""
    strict = StrictHandling.RAISE_ALL
    loaded = dist_checkpointing.load({"model": sharded(chunk)}, str(folder), strict=strict)
    chunk.load_state_dict(loaded["model"])


def save_stock(chunk: Any, folder: Path, arguments: Namespace, as_object: bool = False) -> None:
    """Save a checkpoint as Megatron-LM does, without optimizer.

    With `as_object`, the arguments are saved beside the tensors, as by megatron-core 0.19, and there is no common.pt.
    """
    common: dict[str, Any] = {"args": arguments, "checkpoint_version": 3.0, "iteration": 5}
    if as_object and not hasattr(serialization, "_legacy_common_state_exists"):  # else megatron-core does the same
        common = {"": ShardedObject("common_state", common, (1,), (0,), replica_id=torch.distributed.get_rank())}
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # saving starts writer processes
    dist_checkpointing.save({**sharded(chunk), **common}, str(folder))
    if as_object and torch.distributed.get_rank() == 0:
        (folder / "common.pt").unlink(missing_ok=True)


@torch.no_grad()
def stock_logits(chunk: Any, tokens: list[list[int]]) -> torch.Tensor | None:
    """Return logits [b, s, rows] on the last pipeline stage, else None. The stages run one after the other."""
    ids = torch.tensor(tokens)
    positions = torch.arange(ids.shape[1]).expand(ids.shape)
    mask = torch.triu(torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool), 1)[None, None]
    if not chunk.pre_process:
        hidden = torch.empty(ids.shape[1], ids.shape[0], chunk.config.hidden_size)
        torch.distributed.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
        chunk.set_input_tensor(hidden)
    output = chunk(ids, positions, mask)
    if not chunk.post_process:
        torch.distributed.send(output, parallel_state.get_pipeline_model_parallel_next_rank())
        return None
    parts = [torch.empty_like(output) for _ in range(parallel_state.get_tensor_model_parallel_world_size())]
    torch.distributed.all_gather(parts, output.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
    return torch.cat(parts, dim=-1)
