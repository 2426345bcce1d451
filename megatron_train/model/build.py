"""Build megatron-core's GPTModel from a ModelConfig and the training settings.

chunks = build_model(model_config, config)      # one GPTModel per virtual pipeline stage of this rank; usually one
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules
from torch.nn import Module

from megatron_train.config.model_config import ModelConfig
from megatron_train.config.norm_names import STOCK_NORM_NAMES
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.model.attention import TorchAttention
from megatron_train.model.biases import AttentionWithoutBias, MlpWithoutBias
from megatron_train.model.chunked_loss import GPTModelWithLoss
from megatron_train.model.compiled import LayerConfig
from megatron_train.model.layers import ParallelResidualLayer, SequentialLayer
from megatron_train.model.lima_dropout import set_residual_dropout
from megatron_train.model.neftune import NeftuneNoise
from megatron_train.model.norm import Norm
from megatron_train.model.rotary import RotaryByPosition, RotarySelfAttention, yarn_table
from megatron_train.model.swiglu import GatedSilu
from megatron_train.model.transformer_engine import transformer_engine_layer
from megatron_train.parallel.device import uses_cuda
from megatron_train.parallel.schedule import message_exchange

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


def training_dtype(config: TrainConfig) -> torch.dtype:
    return torch.bfloat16 if config.model.bf16 else torch.float16 if config.model.fp16 else torch.float32


def embedding_dropout(config: TrainConfig) -> float:
    """Return the dropout probability on embeddings: the setting, else 0 with lima_dropout, else hidden_dropout."""
    settings = config.model
    if settings.embedding_dropout is not None:
        return settings.embedding_dropout
    return 0.0 if settings.lima_dropout else settings.hidden_dropout


FIXED_SETTINGS: dict[str, Any] = {
    "attention_softmax_in_fp32": True,
    # Losses are scaled by our own factors (optim/loss.py), so megatron-core must not divide by micro-batches or ranks.
    "calculate_per_token_loss": True,
    # NCCL orders the exchange on the stream; synchronising would stall the CPU after each.
    "batch_p2p_sync": False,
    # megatron-core allows variable_seq_lengths under this dispatcher name only.
    "moe_token_dispatcher_type": "alltoall",
    # The fused kernels need Transformer Engine or Apex; model/ has its own norm, SwiGLU and attention.
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "masked_softmax_fusion": False,
    "apply_rope_fusion": False,
    "persist_layer_norm": False,
    # optim/weight_gradients.py turns it on in the layers that can.
    "gradient_accumulation_fusion": False,
}
"""Settings of TransformerConfig that are the same in every run."""


def transformer_config(model: ModelConfig, config: TrainConfig, stage: int = 0) -> LayerConfig:
    """Return the configuration of the layers of pipeline stage `stage`, for the architecture `model`.

    The stages differ only in the layers that one recomputation group has.
    """
    parallel, settings, dtype = config.parallel, config.model, training_dtype(config)
    pipeline = ParallelLayout.planned(parallel, world_size=1)  # how layers are split does not depend on the ranks
    return LayerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.query_groups,
        kv_channels=model.head_dim,
        normalization=model.normalization,
        layernorm_epsilon=model.layernorm_epsilon,
        gated_linear_unit=model.gated_linear_unit,
        activation_func=ACTIVATIONS[model.activation],
        use_te_activation_func=model.is_swiglu,  # megatron-core's name for "as the layer spec says"
        add_bias_linear=model.add_bias_linear,
        add_qkv_bias=model.add_qkv_bias,
        qk_layernorm=model.qk_layernorm,
        window_size=(model.sliding_window - 1, 0) if model.sliding_window else None,
        init_method_std=model.init_method_std,
        hidden_dropout=embedding_dropout(config),  # what megatron-core's embedding uses; layers: set_residual_dropout
        attention_dropout=settings.attention_dropout,
        recompute_granularity=settings.recompute_granularity,
        recompute_method=settings.recompute_method,
        recompute_num_layers=settings.recompute_group(len(pipeline.layers_of_stage(model.num_layers, stage))),
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        sequence_parallel=parallel.sequence_parallel and parallel.tensor_model_parallel_size > 1,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        autocast_dtype=dtype,
        bf16=settings.bf16,
        fp16=settings.fp16,
        fp8=settings.fp8_format,
        fp8_recipe=settings.fp8_recipe,
        fp8_margin=settings.fp8_margin,
        use_cpu_initialization=not uses_cuda(),
        compile_operations=settings.compile,
        **_pipeline_settings(config, pipeline),
        **FIXED_SETTINGS,
    )


def _pipeline_settings(config: TrainConfig, pipeline: ParallelLayout) -> dict[str, Any]:
    """Return the settings of TransformerConfig that say how pipeline stages are split and exchange messages."""
    # Padded rows have the length of their own micro-batch.
    variable_lengths = not config.data.packing and pipeline.pp > 1
    exchange = message_exchange(pipeline.pp, pipeline.vpp, uses_cuda())
    return {
        "pipeline_model_parallel_size": pipeline.pp,
        "virtual_pipeline_model_parallel_size": config.parallel.virtual_pipeline_model_parallel_size,
        "num_layers_in_first_pipeline_stage": pipeline.first_layers,
        # megatron-core 0.16.1 divides by 0 when both numbers are given and no stage is between them.
        "num_layers_in_last_pipeline_stage": None
        if pipeline.pp == 2 and pipeline.first_layers
        else pipeline.last_layers,
        "variable_seq_lengths": variable_lengths,
        "overlap_p2p_comm": exchange == "overlapped",
        "batch_p2p_comm": exchange == "batched",
    }


def layer_spec(model: ModelConfig) -> ModuleSpec:
    """Return the spec of one transformer layer without Transformer Engine.

    It combines megatron-core's linear layers with this project's norm, attention, SwiGLU and parallel residual.
    """
    return ModuleSpec(
        module=ParallelResidualLayer if model.parallel_residual else SequentialLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=Norm,
            self_attention=ModuleSpec(
                module=RotarySelfAttention if model.bias_in != "mlp" else AttentionWithoutBias,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=TorchAttention,
                    linear_proj=RowParallelLinear,
                    q_layernorm=Norm if model.qk_layernorm else IdentityOp,
                    k_layernorm=Norm if model.qk_layernorm else IdentityOp,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=IdentityOp if model.shared_norm else Norm,
            mlp=ModuleSpec(
                module=MLP if model.bias_in != "attention" else MlpWithoutBias,
                submodules=MLPSubmodules(
                    linear_fc1=ColumnParallelLinear,
                    linear_fc2=RowParallelLinear,
                    activation_func=GatedSilu if model.is_swiglu else None,
                ),
            ),
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map={} if model.shared_norm else STOCK_NORM_NAMES,
        ),
    )


def build_model(model: ModelConfig, config: TrainConfig, random_weights: bool = True) -> list[GPTModel]:
    """Return the model chunks of this rank, on its device, in training precision.

    There is one chunk, or one per virtual pipeline stage. Without `random_weights`, the weights are uninitialized. This
    saves time when a checkpoint is loaded into them.
    """
    core_config = transformer_config(model, config, parallel_state.get_pipeline_model_parallel_rank())
    # megatron-core marks a weight as split over tensor-parallel ranks only when it initialises the weight. Without the
    # mark, the gradient norm counts one rank's part only, and sequence parallelism is refused.
    core_config.perform_initialization = (
        random_weights or core_config.tensor_model_parallel_size > 1 or core_config.sequence_parallel
    )
    chunks = config.parallel.virtual_pipeline_model_parallel_size
    return [_build_chunk(model, config, core_config, vp_stage) for vp_stage in (range(chunks) if chunks else [None])]


def _build_chunk(
    model: ModelConfig, config: TrainConfig, core_config: TransformerConfig, vp_stage: int | None
) -> GPTModel:
    engine = config.model.transformer_impl == "transformer_engine"
    layer = transformer_engine_layer(model) if engine else layer_spec(model)
    spec = TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(core_config, vp_stage=vp_stage), layer_norm=Norm
    )
    position = {"ignore_virtual": vp_stage is None, "vp_stage": vp_stage}
    chunk = GPTModelWithLoss(
        config=core_config,
        transformer_layer_spec=spec,
        vocab_size=model.padded_vocab,
        max_sequence_length=max(config.data.seq_length, model.max_position_embeddings),
        pre_process=parallel_state.is_pipeline_first_stage(**position),
        post_process=parallel_state.is_pipeline_last_stage(**position),
        parallel_output=True,
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
        position_embedding_type="rope",
        rotary_percent=model.rotary_percent,
        rotary_base=model.rotary_base,
        rope_scaling=model.rope_scaling_type == "llama3",
        rope_scaling_factor=model.rope_scaling_factor,
        seq_len_interpolation_factor=model.rope_scaling_factor if model.rope_scaling_type == "linear" else None,
        vp_stage=vp_stage,
    )
    chunk.vocab_size_in_use, chunk.loss_chunk_size = model.vocab_size, config.model.loss_chunk_size
    angles = yarn_table(model, core_config) if model.rope_scaling_type == "yarn" else chunk.rotary_pos_emb
    chunk.rotary_pos_emb = RotaryByPosition(angles, None if engine else training_dtype(config))
    if chunk.post_process and model.padded_vocab > model.vocab_size:
        chunk.output_layer.register_forward_hook(_PaddingMask(model))
    settings = config.model
    if chunk.pre_process and settings.neftune_noise_alpha:
        noise = NeftuneNoise(settings.neftune_noise_alpha, core_config.sequence_parallel)
        chunk.embedding.register_forward_hook(noise, with_kwargs=True)
    set_residual_dropout(chunk.decoder, settings.hidden_dropout, settings.lima_dropout, model.num_layers)
    for layer in chunk.decoder.layers:
        if isinstance(layer, ParallelResidualLayer):
            layer.dropout_on_sum = settings.parallel_residual_dropout == "sum"
    if core_config.sequence_parallel:
        wrong = parameters_without_gradient_sum(chunk)
        assert not wrong, f"under sequence parallelism these gradients would be summed over no ranks: {wrong}"
    return chunk.cuda(torch.cuda.current_device()) if uses_cuda() else chunk


def parameters_without_gradient_sum(chunk: Module) -> list[str]:
    """Return the names of the parameters whose gradients would be wrong under sequence parallelism.

    Each tensor-parallel rank then sees only a part of the positions. So a parameter must either be split over these
    ranks, or have the attribute `sequence_parallel`, which makes megatron-core sum its gradient over them. Query and
    key norms need neither: megatron-core knows them by name. A missing sum would not show in the loss.
    """
    return [
        name
        for name, parameter in chunk.named_parameters()
        if not getattr(parameter, "tensor_model_parallel", False)
        and not getattr(parameter, "sequence_parallel", False)
        and not {"q_layernorm", "k_layernorm"} & set(name.split("."))
    ]


class _PaddingMask:
    """Forward hook of the output layer that gives probability 0 to the vocabulary rows that are only padding.

    An exported model has no such rows, so both then return the same probabilities.
    """

    def __init__(self, model: ModelConfig) -> None:
        self.vocab_size = model.vocab_size

    def __call__(self, layer: Any, inputs: Any, output: tuple[torch.Tensor, Any]) -> None:
        logits = output[0]  # [s, b, rows of this tensor-parallel rank]
        first = parallel_state.get_tensor_model_parallel_rank() * logits.shape[-1]
        logits[..., max(0, self.vocab_size - first) :] = float("-inf")
