from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megatron_train.config.flags import CommandLine, config_from_settings, parse
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.validate import validate, validate_model
from pretokenizer.config.yaml_config import ConfigError
from tests.megatron_train.models import LLAMA
from tests.paths import CONFIGS

SOUND: dict[str, Any] = {"train_data_path": ["p"], "train_iters": 10, "seq_length": 64}
ONE = ParallelLayout()


def problems(settings: dict[str, Any], layout: ParallelLayout = ONE) -> list[str]:
    with pytest.raises(ConfigError) as error:
        validate(CommandLine(config_from_settings(SOUND | settings, "t"), {}, {}), layout)
    return str(error.value).splitlines()


def model_problems(model: ModelConfig, layout: ParallelLayout, *flags: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        validate_model(parse(["--seq_length", "64", *flags]), model, layout)
    return str(error.value).splitlines()


def test_a_sound_run_passes() -> None:
    command = CommandLine(config_from_settings(SOUND, "t"), {}, {})
    validate(command, ONE)
    validate_model(command, LLAMA, ParallelLayout(world_size=4, tp=2, pp=2))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"micro_batch_size": 0}, "micro_batch_size is 0; it must be at least 1"),
        ({"train_data_path": []}, "no training data: give --data_path PREFIX (re-split) or --train_data_path PREFIX"),
        ({"data_path": ["q"]}, "data_path and train_data_path exclude each other"),
        ({"loss_roles": ["bot"]}, "loss_roles 'bot': choose among system, user, assistant, context, tool, all"),
        ({"scalar_loss_mask": 1.5}, "scalar_loss_mask is 1.5; it must be at least 0 and at most 1"),
        ({"bf16": True, "fp16": True}, "bf16 and fp16 exclude each other"),
        ({"hidden_dropout": 1.0}, "hidden_dropout is 1.0; it must be at least 0 and below 1"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1; it must be at least 0 and below 1"),
        ({"lima_dropout": True}, "lima_dropout needs hidden_dropout above 0"),
        ({"recompute_granularity": "full"}, "recompute_granularity full needs recompute_method"),
        ({"recompute_method": "block"}, "recompute_method and recompute_num_layers go with recompute_granularity full"),
        ({"min_lr": 1.0}, "min_lr 1.0 exceeds lr 1e-05"),
        ({"lr_decay_iters": 2, "lr_warmup_iters": 3}, "lr_warmup_iters 3 exceeds lr_decay_iters 2"),
        ({"lr_decay_iters": -3}, "lr_decay_iters is -3; it must be at least 1"),
        ({"lr_warmup_iters": -1}, "lr_warmup_iters is -1; it must be at least 0"),
        ({"min_lr": -1.0}, "min_lr is -1.0; it must be at least 0"),
        ({"adam_beta2": 1.0}, "adam_beta2 is 1.0; it must be at least 0 and below 1"),
        ({"adam_eps": 0.0}, "adam_eps is 0.0; it must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be at least 0"),
        ({"clip_grad": -1.0}, "clip_grad is -1.0; it must be at least 0"),
        ({"eval_iters": -1}, "eval_iters is -1; it must be at least 0"),
        ({"train_epochs": 0.0, "train_iters": 0}, "train_epochs is 0.0; it must be above 0"),
        ({"train_epochs": 2.0}, "train_epochs 2.0 and train_iters 10 exclude each other"),
        ({"save_interval": 5}, "save_interval needs --save DIR"),
        ({"use_checkpoint_args": True}, "use_checkpoint_args needs --load DIR"),
        ({"finetune": True}, "finetune needs --load DIR"),
        ({"load_iters": 4}, "load_iters needs --load DIR"),
        ({"exit_interval": 5}, "exit_interval needs --save DIR: the run would stop early and lose its work"),
        ({"exit_duration_in_mins": 5.0}, "exit_duration_in_mins needs --save DIR"),
        ({"skip_iters": [3, 0]}, "skip_iters 3 0: iterations are counted from 1"),
        ({"profile_iters": [3]}, "profile_iters 3: give the first and the last iteration to record"),
        ({"profile_iters": [5, 3]}, "profile_iters 5 3: give the first and the last iteration to record"),
        ({"log_interval": 0}, "log_interval is 0; it must be at least 1"),
        ({"save": "x", "save_interval": -1}, "save_interval is -1; it must be at least 1"),
        ({"fp8_format": "hybrid", "bf16": True}, "fp8_format needs transformer_impl transformer_engine and bf16"),
        ({"context_parallel_size": 2}, "context_parallel_size must be 1: megatron-core's local attention has no"),
    ],
)
def test_one_problem_of_the_settings(settings: dict[str, Any], problem: str) -> None:
    (found,) = problems(settings)
    assert problem in found


def test_all_problems_come_at_once() -> None:
    found = problems({"train_data_path": [], "hidden_dropout": 2.0, "log_interval": 0, "bf16": True, "fp16": True})
    assert len(found) == 4


def test_batch_sizes_must_fit() -> None:
    layout = ParallelLayout(world_size=4, pp=2)
    assert problems({"global_batch_size": 10, "micro_batch_size": 2}, layout) == [
        "global_batch_size 10 is not a multiple of micro_batch_size 2 x data-parallel size 2 = 4"
    ]


def test_interleaving_needs_whole_rounds_of_micro_batches() -> None:
    layout = ParallelLayout(world_size=2, pp=2, vpp=2)
    settings = {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2, "global_batch_size": 3}
    assert problems(settings, layout) == [
        "virtual pipeline stages need micro-batches (3) divisible by pipeline_model_parallel_size 2"
    ]


def test_sequence_parallel_needs_divisible_rows() -> None:
    layout = ParallelLayout(world_size=4, tp=4)
    settings = {"tensor_model_parallel_size": 4, "sequence_parallel": True, "seq_length": 66, "pad_to_multiple": 6}
    assert problems(settings, layout) == [
        "sequence_parallel needs seq_length 66 divisible by tensor_model_parallel_size 4",
        "sequence_parallel needs pad_to_multiple 6 divisible by tensor_model_parallel_size 4",
    ]


def test_fp8_products_take_sixteen_tokens_a_rank() -> None:
    fp8 = {"fp8_format": "e4m3", "transformer_impl": "transformer_engine", "bf16": True, "seq_length": 72}
    assert problems(fp8) == [
        "fp8_format needs seq_length 72 to be a multiple of 16: FP8 products take 16 tokens a rank"
    ]
    split = {"seq_length": 64, "tensor_model_parallel_size": 2, "sequence_parallel": True}
    (found,) = problems(fp8 | split, ParallelLayout(world_size=2, tp=2))
    assert found == "fp8_format needs pad_to_multiple 16 to be a multiple of 32: FP8 products take 16 tokens a rank"
    command = CommandLine(config_from_settings(SOUND | fp8 | split | {"packing": True}, "t"), {}, {})
    validate(command, ParallelLayout(world_size=2, tp=2))


def test_a_wrong_world_size_is_the_first_error() -> None:
    (found,) = problems({"train_iters": -1}, ParallelLayout(world_size=3, tp=2))
    assert found.startswith("world size 3 is not a multiple of tensor_model_parallel_size 2")


def test_heads_groups_and_layers_must_be_divisible() -> None:
    found = model_problems(LLAMA, ParallelLayout(world_size=3, tp=3))
    assert found[0] == "tensor_model_parallel_size 3 does not divide num_attention_heads 4; sizes that do: 1, 2"
    assert any("num_query_groups 2: one must divide the other" in line for line in found)
    (problem,) = model_problems(LLAMA, ParallelLayout(world_size=3, pp=3))
    assert problem.startswith("num_layers 4 is not a multiple of pipeline stages 3 x chunks 1")


def test_falcon_7b_cannot_be_split_and_the_message_says_so() -> None:
    model = ModelConfig.load(CONFIGS / "model" / "falcon_7b.yaml")
    (found,) = model_problems(model, ParallelLayout(world_size=8, tp=8))
    assert found == "tensor_model_parallel_size 8 does not divide num_attention_heads 71; sizes that do: 1"


def test_rows_longer_than_the_model_has_positions() -> None:
    (found,) = model_problems(LLAMA, ONE, "--seq_length", "65")
    assert found.startswith("seq_length 65 exceeds the model's max_position_embeddings 64")


def test_architecture_flags_are_compared_with_the_model() -> None:
    card = ["--use_rms_norm", "--glu_activation", "swiglu", "--no_tie_embed_logits", "--layernorm_epsilon", "1e-5"]
    card += ["--position_embedding_type", "rotary", "--rope_scaling_factor", "1.0", "--num_attention_heads_kv", "2"]
    validate_model(parse(["--seq_length", "64", *card]), LLAMA, ONE)
    neox = replace(LLAMA, normalization="LayerNorm", gated_linear_unit=False, share_embeddings_and_output_weights=True)
    assert model_problems(neox, ONE, *card) == [
        "--use_rms_norm does not describe the model that is loaded (llama, 4 layers)",
        "--glu_activation swiglu does not describe the model that is loaded (llama, 4 layers)",
        "--no_tie_embed_logits does not describe the model that is loaded (llama, 4 layers)",
    ]
