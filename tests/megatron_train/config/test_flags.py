from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from megatron_train.config.flags import (
    GROUPS,
    OWNER,
    USUAL,
    build_parser,
    config_from_settings,
    config_to_yaml,
    parse,
)
from megatron_train.config.foreign_flags import ARCHITECTURE, FOREIGN_FLAGS, NO_EFFECT
from megatron_train.config.settings import TrainConfig
from pretokenizer.config.flags import field_docs
from pretokenizer.config.yaml_config import ConfigError
from tests.card_flags import card_flags

CARD_VALUES = {
    "tensor_model_parallel_size": 8,
    "pipeline_model_parallel_size": 4,
    "virtual_pipeline_model_parallel_size": None,
    "sequence_parallel": True,
    "load": "./checkpoints/llama2-70b-tp8-pp4",
    "save": "./checkpoints/llama2-70b-tp8-pp4-oasst_pre10",
    "tensorboard_dir": "./checkpoints/llama2-70b-tp8-pp4-oasst_pre10/logging",
    "data_path": ("./data/oasst_pre10_min25_llama2/oasst_sft10-train",),
    "split": "969,30,1",
    "bf16": True,
    "fp16": False,
    "global_batch_size": 64,
    "micro_batch_size": 2,
    "seq_length": 4096,
    "max_position_embeddings": 4096,
    "log_interval": 1,
    "save_interval": 500,
    "eval_interval": 50,
    "eval_iters": 10,
    "hidden_dropout": 0.0,
    "lima_dropout": False,
    "attention_dropout": 0.0,
    "use_checkpoint_args": True,
    "finetune": False,
    "train_iters": 12000,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_eps": 1e-12,
    "clip_grad": 1.0,
    "weight_decay": 1e-6,
    "lr": 1e-5,
    "min_lr": 1e-6,
    "lr_decay_style": "cosine",
    "lr_decay_iters": None,
    "lr_warmup_iters": 100,
    "lr_warmup_style": "linear",
    "recompute_granularity": "selective",
    "recompute_method": None,
    "wandb_logger": True,
    "packing": False,
    "scalar_loss_mask": 0.0,
    "seed": 1234,
}


def flat(config: TrainConfig) -> dict[str, object]:
    return {name: getattr(getattr(config, group), name) for name, group in OWNER.items()}


def test_parse_takes_the_flags_of_stage_1_verbatim() -> None:
    command = parse(card_flags(1))
    values = flat(command.config)
    assert {name: values[name] for name in CARD_VALUES} == CARD_VALUES
    assert set(command.ignored) == {
        "model_name",
        "tokenizer_type",
        "vocab_file",
        "vocab_extra_ids_list",
        "use_flash_attn",
        "no_bias_gelu_fusion",
        "no_bias_dropout_fusion",
        "log_timers_to_tensorboard",
    }
    assert command.claims == {
        "use_rms_norm": None,
        "glu_activation": "swiglu",
        "no_tie_embed_logits": None,
        "layernorm_epsilon": "1e-5",
        "position_embedding_type": "rotary",
        "rope_scaling_factor": "1.0",
    }
    assert command.extra_tokens == ("<|im_start|>", "<|im_end|>")


def test_parse_takes_the_flags_of_stage_2_verbatim() -> None:
    values = flat(parse(card_flags(2)).config)
    expected = CARD_VALUES | {
        "load": "./checkpoints/llama2-70b-tp8-pp4-oasst_pre10",
        "save": "./checkpoints/llama2-70b-tp8-pp4-oasst_sft10",
        "tensorboard_dir": "./checkpoints/llama2-70b-tp8-pp4-oasst_sft10/logging",
        "data_path": ("./data/oasst_top1_2023-07-23_llama2/oasst_top1-train",),
        "save_interval": 346,
        "hidden_dropout": 0.25,
        "lima_dropout": True,
        "train_iters": 519,
        "finetune": True,
    }
    assert {name: values[name] for name in expected} == expected


def test_a_flag_beats_the_file_and_a_later_file_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 1e-4\ntrain_iters: 7\nseq_length: 32\n")
    (tmp_path / "b.yaml").write_text("train_iters: 8\nseq_length: 64\n")
    arguments = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml"), "--seq_length", "128"]
    config = parse(arguments).config
    assert (config.lr_schedule.lr, config.batch.train_iters, config.data.seq_length) == (1e-4, 8, 128)


def test_booleans_can_be_switched_off_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("bf16: true\npacking: true\n")
    config = parse(["--config", str(tmp_path / "a.yaml"), "--bf16", "false", "--sequence_parallel"]).config
    assert (config.model.bf16, config.data.packing, config.parallel.sequence_parallel) == (False, True, True)


def test_lists_take_one_or_many_values(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("valid_data_path: one\n")
    config = parse(["--config", str(tmp_path / "a.yaml"), "--train_data_path", "0.5", "a", "0.5", "b"]).config
    assert config.data.train_data_path == ("0.5", "a", "0.5", "b")
    assert config.data.valid_data_path == ("one",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rate", "1"], "unknown flag --learning_rate: use --lr"),
        (["--num_train_epochs=3"], "unknown flag --num_train_epochs: use --train_epochs"),
        (["--lora_rank", "8"], "unknown flag --lora_rank: there is no LoRA here"),
        (["--hiden_dropout", "0.1"], "unknown flag --hiden_dropout (did you mean '--hidden_dropout'?)"),
        (["--lr=fast"], "command line: lr: expected a number, found 'fast'"),
        (["--train_iters", "1.5"], "command line: train_iters: expected a whole number, found '1.5'"),
        (["--lr_decay_style", "cosin"], "'cosin' is not one of cosine, linear, constant, inverse-square-root"),
        (["--bf16", "maybe"], "command line: bf16: expected true or false, found 'maybe'"),
        (["--lr"], "argument --lr: expected one argument"),
        (["12"], "unrecognized arguments: 12"),
    ],
)
def test_parse_says_what_is_wrong(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(arguments)
    assert message in str(error.value)


def test_parse_names_every_unknown_key_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("lr: 1e-5\nlearning: 1\ntrain_iter: 3\n")
    with pytest.raises(ConfigError) as error:
        parse(["--config", str(path)])
    *unknown, valid = str(error.value).splitlines()
    assert unknown == [
        f"{path}: unknown setting 'learning'",
        f"{path}: unknown setting 'train_iter' (did you mean 'train_iters'?)",
    ]
    assert "clip_grad" in valid


def test_config_from_settings_collects_the_problems_of_all_groups() -> None:
    with pytest.raises(ConfigError) as error:
        config_from_settings({"lr": "x", "seq_length": "y"}, "f.yaml")
    assert sorted(str(error.value).splitlines()) == [
        "f.yaml: lr: expected a number, found 'x'",
        "f.yaml: seq_length: expected a whole number, found 'y'",
    ]


def test_config_to_yaml_gives_the_same_config_again() -> None:
    config = parse(card_flags(1)).config
    assert config_from_settings(yaml.safe_load(config_to_yaml(config)), "again") == config


def test_every_setting_is_documented_and_has_one_owner() -> None:
    for cls in GROUPS.values():
        assert set(field_docs(cls)) == set(cls.__dataclass_fields__)
        assert all(doc.endswith(".") or doc.endswith(")") for doc in field_docs(cls).values())
    assert len(OWNER) == sum(len(cls.__dataclass_fields__) for cls in GROUPS.values())
    assert not set(OWNER) & (set(NO_EFFECT) | set(ARCHITECTURE))


def test_help_shows_the_usual_flags_on_one_screen() -> None:
    assert len(USUAL) == 20 and set(OWNER) >= USUAL
    lines = build_parser().format_help().splitlines()
    assert len(lines) <= 50
    assert {line.split()[0].removeprefix("--") for line in lines if line.startswith("  --")} == {"config", *USUAL}


def test_help_all_shows_every_setting_with_unit_and_default() -> None:
    text = " ".join(build_parser(shows_all=True).format_help().split())
    assert all(f" --{name} " in text for name in OWNER)
    assert "--adam_eps X Number that Adam adds to the square root of the second moment. [1e-08]" in text
    assert "--use_flash_attn" not in text


def test_a_foreign_flag_is_no_setting_here() -> None:
    assert not set(FOREIGN_FLAGS) & (set(OWNER) | set(NO_EFFECT) | set(ARCHITECTURE))
