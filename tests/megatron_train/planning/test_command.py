"""Output, requirements and errors of the command `plan`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from megatron_train.__main__ import main
from tests.paths import CONFIGS
from tests.test_cards import card_flags


@pytest.mark.slow
def test_plan_of_stage_2_prints_the_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--world_size", "64", *card_flags(2), "--suggest"]) == 0
    printed = capsys.readouterr().out
    for figure in (
        "68,976,648,192 as published (vocabulary 32,000); 68,978,745,344 allocated (32,007 token ids in 32,128 rows)",
        "64 GPUs = TP 8 x PP 4 x DP 2, sequence parallel",
        "15.8% of a step",
        "11,087 documents to train on of 464.6 tokens on average",
        "519 = 2.996 epochs of 11,087 documents",
        "965.7 GB each (138.0 GB weights, 827.7 GB optimizer)",
        "2 saves, every 346 iterations and at the end; 2 kept",
        "layouts that fit on 64 H100 80 GB",
    ):
        assert figure in printed


def test_plan_prints_the_memory_of_a_save_and_of_a_load_and_advises_a_micro_batch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = "--model llama3_8b --bf16 --seq_length 4096 --packing --train_data_path x --train_iters 9 --save x"
    assert main(["plan", "--world_size", "8", "--global_batch_size", "128", "--gpu", "h200-141gb", *flags.split()]) == 0
    printed = capsys.readouterr().out
    # 2 bytes for each of 8,030,261,248 / 8 parameters and two tensors of 128,256 x 4,096 numbers; 4 bytes for each
    assert "host memory  6.2 GB per rank besides to save a checkpoint, 4.0 GB to load one" in printed
    assert (
        "micro-batch  2 is the fastest size that fits on H200 141 GB (99 of 140 GiB, 8.27 s per iteration)" in printed
    )
    assert "give --micro_batch_size 2 in place of 1" in printed


def test_plan_counts_the_copy_of_an_asynchronous_save(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--model llama3_8b --bf16 --packing --train_data_path x --train_iters 9 --save x --async_save"
    assert main(["plan", "--world_size", "8", "--gpu", "h200-141gb", *flags.split()]) == 0
    # 2 and 12 bytes for each of 8,030,261,248 / 8 parameters
    assert "host memory  14.1 GB per rank besides to save a checkpoint, 4.0 GB to load" in capsys.readouterr().out


def test_plan_needs_no_torch_and_no_file_that_a_flag_names() -> None:
    flags = [sys.executable, "-c", "import sys; from megatron_train.__main__ import main; main(sys.argv[1:]);"]
    flags[-1] += " sys.exit(len({'torch', 'megatron'} & set(sys.modules)))"
    config = CONFIGS / "train" / "falcon-7b-sft-top1-696.yaml"
    done = subprocess.run(
        [*flags, "plan", "--config", str(config), "--world_size", "8"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "696 = 8.009 epochs of 11,123 documents" in done.stdout


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--world_size", "8", "--model", "{llama}", "--data_path", "d"],
            "train_iters: the length of an epoch",
        ),
        (["--world_size", "3", "--train_iters", "9", "--tensor_model_parallel_size", "2"], "world size 3 is not a"),
        (
            ["--world_size", "2", "--train_iters", "9", "--data_path", "d", "--load", "nowhere"],
            "names no known architecture",
        ),
        (["--train_iters", "9"], "--world_size"),
    ],
)
def test_bad_plans_are_refused_with_the_remedy(
    flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    llama = f"{CONFIGS}/model/llama2_70b.yaml"
    assert main(["plan", *(flag.replace("{llama}", llama) for flag in flags)]) == 2
    assert expected in capsys.readouterr().err
