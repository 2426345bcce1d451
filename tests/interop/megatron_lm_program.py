"""A program: load one of our checkpoints with Megatron-LM's own `load_checkpoint`, and write the model's logits.

    PYTHONPATH=WHEEL python megatron_lm_program.py CKPT_DIR TOKENS.json LOGITS.pt

WHEEL is the content of a wheel of megatron-core that has `megatron.training`. Megatron-LM expects Python 3.12, CUDA
and triton, so the program gives it the CPU and an empty triton. Its arguments, the reading of the architecture with
--use-checkpoint-args, and load_checkpoint with default strictness are unchanged.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import torch._dynamo
import torch._inductor.runtime.triton_compat  # these look for triton before its stub exists
import torch.nn.functional as F
import typing_extensions

FLAGS = (
    "--use-checkpoint-args --finetune --no-load-optim --no-load-rng --ckpt-format torch_dist --micro-batch-size 1 "
    "--transformer-impl local --use-cpu-initialization"
)


class EmptyModule(types.ModuleType):
    """A module in which every name exists and does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


def provide_environment() -> None:
    """Give Megatron-LM the CPU, an empty triton, and the one name of Python 3.12 that it imports."""
    typing.override = typing_extensions.override  # type: ignore[attr-defined]
    for name in ("triton", "triton.language", "triton.runtime", "triton.runtime.errors"):
        module = EmptyModule(name)
        module.__spec__, module.__version__ = importlib.machinery.ModuleSpec(name, None), "3.4.0"  # type: ignore[attr-defined]
        sys.modules[name] = module
    for name, value in {"current_device": "cpu", "get_device_capability": (8, 0)}.items():
        setattr(torch.cuda, name, lambda *_, value=value: value)
    for name in ("set_device", "synchronize", "empty_cache"):
        setattr(torch.cuda, name, lambda *_: None)
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    own = torch.tensor
    torch.tensor = lambda *values, device=None, **rest: own(*values, **rest)  # type: ignore[assignment]
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def arguments_of_checkpoint(checkpoint_dir: str) -> Any:
    """Return Megatron-LM's arguments, with the architecture from the checkpoint."""
    from megatron.training import arguments, checkpointing, global_vars

    sys.argv = ["pretrain_gpt.py", "--load", checkpoint_dir, *FLAGS.split()]
    options = arguments.parse_args()
    options.rank, options.world_size, options.data_parallel_size = 0, 1, 1
    options = checkpointing.load_args_from_checkpoint(options)[0]
    options.use_dist_ckpt, options.params_dtype = True, torch.float32
    options.consumed_train_samples = options.skipped_train_samples = options.consumed_valid_samples = 0
    global_vars.set_args(options)
    return options


def build(options: Any) -> Any:
    """Return megatron-core's model of the arguments, with random weights."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    config = TransformerConfig(
        num_layers=options.num_layers,
        hidden_size=options.hidden_size,
        ffn_hidden_size=options.ffn_hidden_size,
        num_attention_heads=options.num_attention_heads,
        num_query_groups=options.num_query_groups,
        kv_channels=options.kv_channels,
        normalization=options.normalization,
        layernorm_epsilon=options.layernorm_epsilon,
        gated_linear_unit=options.swiglu,
        activation_func=F.silu,
        add_bias_linear=options.add_bias_linear,
        add_qkv_bias=options.add_qkv_bias,
        use_cpu_initialization=True,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        gradient_accumulation_fusion=False,
        hidden_dropout=0,
        attention_dropout=0,
    )
    return GPTModel(
        config,
        get_gpt_layer_local_spec(normalization=options.normalization),
        vocab_size=options.padded_vocab_size,
        max_sequence_length=options.max_position_embeddings,
        position_embedding_type=options.position_embedding_type,
        rotary_base=options.rotary_base,
        share_embeddings_and_output_weights=not options.untie_embeddings_and_output_weights,
    ).eval()


@torch.no_grad()
def main(checkpoint_dir: str, tokens: str, target: str) -> None:
    provide_environment()
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
    from megatron.training.checkpointing import load_checkpoint

    parallel_state.initialize_model_parallel(1, 1)
    CudaRNGStatesTracker.fork = lambda *_, **__: contextlib.nullcontext()  # type: ignore[method-assign,assignment]
    options = arguments_of_checkpoint(checkpoint_dir)
    model = build(options)
    print("strictness", options.dist_ckpt_strictness, "iteration", load_checkpoint([model], None, None)[0])
    ids = torch.as_tensor(json.loads(Path(tokens).read_text(encoding="utf-8")))
    positions = torch.arange(ids.shape[1]).expand(ids.shape)
    mask = torch.triu(torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool), 1)[None, None]
    torch.save(model(ids, positions, mask), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
