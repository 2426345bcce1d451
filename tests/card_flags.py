"""The training flags that the card llama2-70b-oasst-sft-v10 prints for its two stages."""

from __future__ import annotations

import shlex

COMMON_FLAGS = r"""
--tensor_model_parallel_size 8
--pipeline_model_parallel_size 4
--model_name llama2
--tokenizer_type SentencePieceTokenizer
--bf16
--global_batch_size 64
--micro_batch_size 2
--vocab_file=./llama2/Llama-2-7b/tokenizer.model
--use_rms_norm
--glu_activation swiglu
--no_tie_embed_logits
--vocab_extra_ids_list "\"<|im_start|>,<|im_end|>\""
--layernorm_epsilon 1e-5
--use_flash_attn
--no_bias_gelu_fusion
--seq_length 4096
--max_position_embeddings 4096
--log_interval 1
--eval_interval 50
--eval_iters 10
--position_embedding_type rotary
--no_bias_dropout_fusion
--use_checkpoint_args
--attention_dropout 0.0
--adam_beta1 0.9
--adam_beta2 0.95
--adam_eps 1e-12
--lr_decay_style cosine
--lr_warmup_iters 100
--lr 1e-5
--min_lr 1e-6
--weight_decay 0.000001
--sequence_parallel
--recompute_granularity selective
--log_timers_to_tensorboard
--rope_scaling_factor 1.0
--wandb_logger
"""
STAGE_FLAGS = {
    1: """
--load ./checkpoints/llama2-70b-tp8-pp4
--save ./checkpoints/llama2-70b-tp8-pp4-oasst_pre10
--tensorboard_dir ./checkpoints/llama2-70b-tp8-pp4-oasst_pre10/logging
--data_path ./data/oasst_pre10_min25_llama2/oasst_sft10-train
--save_interval 500
--hidden_dropout 0.0
--train_iters 12000
""",
    2: """
--load ./checkpoints/llama2-70b-tp8-pp4-oasst_pre10
--save ./checkpoints/llama2-70b-tp8-pp4-oasst_sft10
--tensorboard_dir ./checkpoints/llama2-70b-tp8-pp4-oasst_sft10/logging
--data_path ./data/oasst_top1_2023-07-23_llama2/oasst_top1-train
--save_interval 346
--hidden_dropout 0.25
--lima_dropout
--train_iters 519
--finetune
""",
}


def card_flags(stage: int) -> list[str]:
    return shlex.split(STAGE_FLAGS[stage] + COMMON_FLAGS)
