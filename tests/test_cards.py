"""The trainer accepts the flags of the five published models as printed, and computes their published figures.

Every figure here comes from the cards or from the analysis of the original programs, not from this code.
"""

from __future__ import annotations

import math
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_train.announce import describe_batch, differences_from_megatron_llm
from megatron_train.config.flags import CommandLine, parse
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.config.validate import validate, validate_model
from megatron_train.data.document_order import split_documents
from megatron_train.data.document_set import DocumentSet
from megatron_train.optim.lr_schedule import learning_rate
from pretokenizer.config.yaml_config import load_yaml
from tests.card_flags import card_flags
from tests.conftest import write_shard
from tests.paths import CONFIGS

WORLD_SIZES = {"llama2": 32, "oasst": 8, "redpajama": 4, "falcon": 8, "stablelm": 8}


def configuration(name: str) -> CommandLine:
    return parse(["--config", str(CONFIGS / "train" / f"{name}.yaml")])


def layout_of(command: CommandLine, world_size: int) -> ParallelLayout:
    return ParallelLayout.planned(command.config.parallel, world_size)


def rate(name: str, applied: int) -> str:
    """Return the learning rate of a configuration after `applied` iterations, to five digits."""
    config = configuration(name).config
    size = config.batch.global_batch_size or 0
    return f"{learning_rate(config.lr_schedule, applied * size, size, config.batch.train_iters):.5g}"


# llama2-70b-oasst-sft-v10 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
def test_llama2_flags_as_printed_are_accepted_and_equal_the_configuration_file(stage: int) -> None:
    command = parse(card_flags(stage))
    layout = layout_of(command, 32)
    validate(command, layout)
    validate_model(command, ModelConfig.load(CONFIGS / "model" / "llama2_70b.yaml"), layout)
    assert command.config == configuration(f"llama2-70b-oasst-sft-v10_stage{stage}").config
    assert command.extra_tokens == ("<|im_start|>", "<|im_end|>")
    assert sorted(command.ignored) == [
        "log_timers_to_tensorboard",
        "model_name",
        "no_bias_dropout_fusion",
        "no_bias_gelu_fusion",
        "tokenizer_type",
        "use_flash_attn",
        "vocab_extra_ids_list",
        "vocab_file",
    ]


def test_llama2_stage_2_means_what_the_card_says() -> None:
    config = parse(card_flags(2)).config
    assert (config.model.hidden_dropout, config.model.lima_dropout, config.checkpoint.finetune) == (0.25, True, True)
    assert (config.batch.train_iters, config.checkpoint.save_interval) == (519, 346)
    assert (config.optimizer.weight_decay, config.optimizer.clip_grad, config.data.split) == (1e-6, 1.0, "969,30,1")
    assert (config.lr_schedule.lr, config.lr_schedule.min_lr, config.lr_schedule.lr_warmup_iters) == (1e-5, 1e-6, 100)


def test_llama2_world_sizes_that_do_not_fit_are_refused_with_the_remedy() -> None:
    command = parse(card_flags(1))
    with pytest.raises(ValueError, match="multiple of tensor_model_parallel_size 8 x pipeline_model_parallel_size 4"):
        validate(command, layout_of(command, 40))
    with pytest.raises(ValueError, match=r"global_batch_size 64 is not a multiple of micro_batch_size 2 x .* 3 = 6"):
        validate(command, layout_of(command, 96))


def test_differences_from_the_original_are_printed() -> None:
    kept, loss, recompute = differences_from_megatron_llm(parse(card_flags(1)).config)
    assert "split 969,30,1 again" in kept and "validation shard" in kept
    assert "target tokens of the global batch" in loss and "--loss_normalization micro_batch" in loss
    assert "selective" in recompute


@pytest.mark.parametrize(
    ("documents", "parts", "iterations", "epochs"),
    [
        (793569, (768968, 23807, 794), 12000, "0.9987"),
        (11441, (11087, 343, 11), 519, "2.996"),
        (11441, (11087, 343, 11), 346, "1.997"),
    ],
)
def test_llama2_split_and_epochs(documents: int, parts: tuple[int, int, int], iterations: int, epochs: str) -> None:
    split = split_documents(documents, "969,30,1", np.random.RandomState(1234))
    assert tuple(len(part) for part in split) == parts
    assert f"{iterations * 64 / parts[0]:.4g}" == epochs


def test_llama2_batch_in_a_sentence() -> None:
    config = parse(card_flags(1)).config
    sentence = describe_batch(config, ParallelLayout(64, 8, 4), 768968, 768968.0)
    assert sentence == (
        "64 samples = 2 per micro-batch x 16 micro-batches x 2 data-parallel ranks; "
        "12,000 iterations = 0.999 epochs of 768,968 documents"
    )


@pytest.mark.parametrize(
    ("applied", "expected"),
    [(0, "0"), (1, "1e-07"), (50, "5e-06"), (100, "1e-05"), (200, "8.7933e-06"), (346, "4.2838e-06"), (519, "1e-06")],
)
def test_llama2_stage_2_learning_rates(applied: int, expected: str) -> None:
    assert rate("llama2-70b-oasst-sft-v10_stage2", applied) == expected


def test_llama2_vocabulary_and_its_padding() -> None:
    model = replace(ModelConfig.load(CONFIGS / "model" / "llama2_70b.yaml"), vocab_size=32007, padded_vocab_size=None)
    assert model.padded_vocab == 32128
    assert model.num_parameters(model.padded_vocab) == 68_978_745_344


# All five --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "rows"),
    [
        ("llama2_70b", 68_976_648_192, 32000),
        ("pythia_12b", 11_846_072_320, 50688),
        ("redpajama_incite_3b", 2_775_864_320, 50432),
        ("falcon_7b", 6_921_720_704, 65024),
        ("stablelm_alpha_7b", 7_868_755_968, 50432),
    ],
)
def test_parameters_as_published(name: str, parameters: int, rows: int) -> None:
    model = ModelConfig.load(CONFIGS / "model" / f"{name}.yaml")
    assert (model.num_parameters(), model.vocab_size) == (parameters, rows)


@pytest.mark.parametrize("card", sorted(load_yaml(CONFIGS / "cards.yaml")))
@pytest.mark.parametrize("variant", ["", "_packed"])
def test_each_card_has_configurations_that_validate_on_its_gpus(card: str, variant: str) -> None:
    entry = load_yaml(CONFIGS / "cards.yaml")[card]
    world_size = WORLD_SIZES[card.split("-")[0]]
    for stage in entry["stages"].values():
        command = configuration(Path(stage["config"]).stem + variant)
        layout = layout_of(command, world_size)
        validate(command, layout)
        model = ModelConfig.load(CONFIGS.parent / entry["architecture"])
        validate_model(command, model.with_positions(command.config.model.max_position_embeddings), layout)
        assert command.config.data.packing == bool(variant)
        data = command.config.data
        assert Path((data.train_data_path or data.data_path)[0]).name in stage["shards"]


def test_hugging_face_cards_name_train_and_valid_shards_and_clip_at_2() -> None:
    for name in WORLD_SIZES:
        for path in sorted((CONFIGS / "train").glob(f"{name}*.yaml")):
            if name == "llama2":
                continue
            config = configuration(path.stem).config
            assert config.data.train_data_path and config.data.valid_data_path and not config.data.data_path
            assert (config.optimizer.clip_grad, config.optimizer.weight_decay) == (2.0, 0.0)
            assert (config.optimizer.adam_beta2, config.optimizer.adam_eps) == (0.95, 1e-12)
            assert (config.data.loss_alignment, config.data.overlong) == ("input", "random_window")
            assert (config.lr_schedule.lr_decay_style, config.lr_schedule.min_lr) == ("linear", 0.0)


def test_pythia_12b_settings() -> None:
    config = configuration("oasst-sft-4-pythia-12b-epoch-3.5").config
    assert (config.model.fp16, config.model.bf16, config.model.lima_dropout) == (True, False, False)
    assert (config.model.hidden_dropout, config.model.embedding_dropout) == (0.2, 0.0)
    assert (config.batch.global_batch_size, config.batch.train_iters, config.data.seq_length) == (64, 4000, 2048)
    assert (config.optimizer.initial_loss_scale, config.optimizer.loss_scale_window) == (65536.0, 1000)
    assert (config.optimizer.hysteresis, config.optimizer.min_loss_scale) == (2, 1.0)
    assert round(4000 / 3.5 * 8) == 9143 == config.lr_schedule.lr_decay_iters


def test_redpajama_3b_settings() -> None:
    config = configuration("redpajama-3b-chat").config
    assert (config.model.fp16, config.batch.global_batch_size, config.batch.train_iters) == (True, 128, 6000)
    assert (config.data.seq_length, config.model.max_position_embeddings) == (5120, 5120)
    assert (config.lr_schedule.lr_warmup_iters, config.lr_schedule.lr_warmup_style) == (2000, "linear")


def test_falcon_7b_settings_and_steps() -> None:
    config = configuration("falcon-7b-sft-top1-696").config
    assert 8 * math.ceil(11123 / 128) == 696 == config.batch.train_iters
    assert (config.model.bf16, config.model.lima_dropout, config.model.hidden_dropout) == (True, True, 0.2)
    assert (config.batch.global_batch_size, config.data.seq_length) == (128, 2048)
    assert (config.checkpoint.save_interval, config.checkpoint.save_total_limit) == (80, 4)


def test_stablelm_7b_settings() -> None:
    config = configuration("stablelm-7b-sft-v7-epoch-3").config
    assert (config.model.fp16, config.batch.global_batch_size, config.batch.train_iters) == (True, 64, 12000)
    assert config.checkpoint.save_interval == 12000 // 3  # one epoch
    assert (config.data.seq_length, config.model.hidden_dropout) == (4096, 0.0)


@pytest.mark.parametrize(
    ("name", "applied", "expected"),
    [
        # DeepSpeed's WarmupDecayLR: lr log(n + 1) / log(warm-up), then lr (total - n) / (total - warm-up).
        ("oasst-sft-4-pythia-12b-epoch-3.5", 0, "0"),
        ("oasst-sft-4-pythia-12b-epoch-3.5", 9, "3e-06"),
        ("oasst-sft-4-pythia-12b-epoch-3.5", 99, "6e-06"),
        ("oasst-sft-4-pythia-12b-epoch-3.5", 4000, "3.4124e-06"),
        ("redpajama-3b-chat", 1000, "5e-06"),
        ("redpajama-3b-chat", 6000, "6e-06"),
        ("falcon-7b-sft-top1-696", 9, "7.6862e-06"),
        ("falcon-7b-sft-top1-696", 348, "5.1479e-06"),
        ("falcon-7b-sft-top1-696", 696, "0"),
        ("stablelm-7b-sft-v7-epoch-3", 9, "5e-06"),
        ("stablelm-7b-sft-v7-epoch-3", 12000, "2.5157e-06"),
    ],
)
def test_hugging_face_cards_learning_rates(name: str, applied: int, expected: str) -> None:
    assert rate(name, applied) == expected


# Launching -------------------------------------------------------------------------------------------------------


def test_a_missing_prefix_lists_those_beside_it_and_under_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's launch reads oasst_sft10-train, but its section writes oasst_pre10-train."""
    monkeypatch.chdir(tmp_path)
    for folder, name in (("data", "oasst_pre10-train"), ("output/oasst_top1", "oasst_top1-train")):
        Path(folder).mkdir(parents=True)
        write_shard(Path(folder) / name, [([5, 6], [1, 2])])
    with pytest.raises(
        ValueError, match=r"no such shard; .*data/oasst_pre10-train, output/oasst_top1/oasst_top1-train"
    ):
        DocumentSet(["data/oasst_sft10-train"])


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(("code", "left", "requeued"), [(0, 0, False), (85, 0, True), (1, 1, False)])
def test_slurm_queues_a_job_again_only_after_a_saved_stop(
    stage: int, code: int, left: int, requeued: bool, tmp_path: Path
) -> None:
    commands = {
        "srun": f'echo "$@" > {tmp_path}/srun.log; exit {code}',
        "scontrol": f"echo $@ >> {tmp_path}/scontrol.log",
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": str(CONFIGS.parent), "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_ID": "77"}
    script = CONFIGS.parent / "examples" / "slurm" / f"train_stage{stage}.sbatch"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **job}
    done = subprocess.run(["bash", str(script), "--lr", "1e-5"], env=environment, capture_output=True, text=True)
    assert done.returncode == left, done.stderr
    assert ("requeue 77" in (tmp_path / "scontrol.log").read_text()) == requeued
    words = shlex.split((tmp_path / "srun.log").read_text().replace("\n", " "))
    flags = words[words.index("--config") :]
    command = parse(flags)
    validate(command, layout_of(command, 32))
    assert command.config == with_flags(f"llama2-70b-oasst-sft-v10_stage{stage}_packed")


def with_flags(name: str) -> TrainConfig:
    return parse(["--config", f"{CONFIGS}/train/{name}.yaml", "--exit_code_on_signal", "85", "--lr", "1e-5"]).config


def test_dockerfile_copies_existing_files() -> None:
    root = CONFIGS.parent
    copied = [line.split()[1:-1] for line in (root / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    assert len(copied) == 6
    assert all((root / name).exists() for names in copied for name in names)
