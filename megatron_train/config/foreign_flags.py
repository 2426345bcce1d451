"""Flags of other trainers: accepted without effect, accepted as a description of the model, or refused with a hint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NO_EFFECT: dict[str, tuple[int, str]] = {
    "use_flash_attn": (0, "attention always uses torch's fused kernels"),
    "no_bias_gelu_fusion": (0, "no fused bias-GELU exists here"),
    "no_bias_dropout_fusion": (0, "no fused bias-dropout exists here"),
    "log_timers_to_tensorboard": (0, "step time is always logged"),
    "variable_seq_lengths": (0, "padded rows always have the length of their micro-batch"),
    "data_type": (1, "shards are always instruction data"),
    "tokenizer_type": (1, "shards are tokenized already; the manifest has what training needs"),
    "vocab_file": (1, "as --tokenizer_type"),
    "vocab_extra_ids_list": (1, "as --tokenizer_type"),
    "model_name": (1, "the architecture comes from the checkpoint or --model"),
    "num_workers": (1, "rows are read from memory-mapped files in the training process"),
    "use_distributed_optimizer": (
        0,
        "always on: fp32 weights and Adam moments are spread over the data-parallel ranks",
    ),
    "DDP_impl": (1, "there is one implementation"),
}
"""Accepted flags of Megatron-LLM that have no effect here: name -> (number of values, reason)."""

ARCHITECTURE: dict[str, tuple[int, Callable[[Any, Any], bool]]] = {
    "use_rms_norm": (0, lambda model, _: model.normalization == "RMSNorm"),
    "no_tie_embed_logits": (0, lambda model, _: not model.share_embeddings_and_output_weights),
    "glu_activation": (
        1,
        lambda model, value: (
            model.gated_linear_unit and {"silu": "swiglu", "gelu": "geglu"}.get(model.activation) == value
        ),
    ),
    "position_embedding_type": (1, lambda model, value: value == "rotary"),
    "layernorm_epsilon": (1, lambda model, value: model.layernorm_epsilon == float(value)),
    "rope_theta": (1, lambda model, value: model.rotary_base == float(value)),
    "rope_scaling_factor": (1, lambda model, value: model.rope_scaling_factor == float(value)),
    "num_layers": (1, lambda model, value: model.num_layers == int(value)),
    "hidden_size": (1, lambda model, value: model.hidden_size == int(value)),
    "ffn_hidden_size": (1, lambda model, value: model.ffn_hidden_size == int(value)),
    "num_attention_heads": (1, lambda model, value: model.num_attention_heads == int(value)),
    "num_attention_heads_kv": (1, lambda model, value: model.query_groups == int(value)),
    "make_vocab_size_divisible_by": (1, lambda model, value: model.make_vocab_size_divisible_by == int(value)),
}
"""Flags of Megatron-LLM that describe the architecture: name -> (number of values, test whether a model agrees).

The architecture comes from the checkpoint or from --model. The test compares it with the flag's value.
"""

FOREIGN_FLAGS: dict[str, str] = {
    "epochs": "use --train_epochs N",
    "num_epochs": "use --train_epochs N",
    "num_train_epochs": "use --train_epochs N",
    "max_steps": "use --train_iters N",
    "learning_rate": "use --lr X",
    "gradient_accumulation_steps": "use --global_batch_size N, the samples per iteration over all ranks; the number of "
    "micro-batches follows from it",
    "per_device_train_batch_size": "use --micro_batch_size N",
    "train_batch_size": "use --global_batch_size N",
    "max_grad_norm": "use --clip_grad X",
    "gradient_clipping": "use --clip_grad X",
    "warmup_ratio": "use --lr_warmup_iters N, the ratio times the iterations of the run",
    "warmup_steps": "use --lr_warmup_iters N",
    "lr_scheduler_type": "use --lr_decay_style",
    "adam_epsilon": "use --adam_eps X",
    "max_seq_length": "use --seq_length N",
    "max_length": "use --seq_length N",
    "cutoff_len": "use --seq_length N",
    "output_dir": "use --save DIR",
    "model_name_or_path": "use --load CHECKPOINT, after `checkpoint-convert from-hf HF_FOLDER CHECKPOINT`",
    "resume_from_checkpoint": "start the same command again; a run resumes from the newest checkpoint in --save",
    "save_steps": "use --save_interval N",
    "eval_steps": "use --eval_interval N",
    "logging_steps": "use --log_interval N",
    "gradient_checkpointing": "use --recompute_granularity full --recompute_method uniform --recompute_num_layers 1",
    "report_to": "use --wandb_logger or --tensorboard_dir DIR",
    "override_opt_param_scheduler": "leave it out; the flags of a launch always override the checkpoint's schedule",
    "use_checkpoint_opt_param_scheduler": "leave it out; give the flags of the earlier launch again",
    "lora_rank": "there is no LoRA here, because the trainer updates every weight",
    "lora_r": "there is no LoRA here, because the trainer updates every weight",
    "use_lora": "there is no LoRA here, because the trainer updates every weight",
    "load_in_4bit": "there is no quantized training here; --bf16 with --recompute_granularity full saves memory",
    "deepspeed": "leave it out; optimizer state is always spread over the data-parallel ranks, as in ZeRO stage 1",
    "fsdp": "leave it out; use tensor and pipeline parallelism, and optimizer state is always sharded",
    "world_size": "only `plan` and `parity` take it; torchrun starts the ranks",
    "nproc_per_node": "only `launch` and torchrun take it: megatron-train launch --nproc_per_node N ...",
}
"""Flags of other trainers that are refused with a hint: name -> the flag to use here, or why there is none."""
