"""Output, exit codes and errors of the command line."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from checkpoint_convert.__main__ import main
from checkpoint_convert.command_line import byte_size, token_list
from pretokenizer.chat.formats import CHAT_FORMATS
from tests.paths import ROOT

CHATML = "<|im_start|>,<|im_end|>"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Return the exit code, stdout and stderr of a command."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_there_and_back(llama_with_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "from-hf", llama_with_tokenizer, tmp_path / "ckpt", "--vocab_extra_ids_list", CHATML)
    assert (code, err) == (0, "")
    assert out.splitlines()[:4] == [
        f"wrote {tmp_path / 'ckpt' / 'release'}",
        "  15 tensors, 193.2 kB in float32",
        "  vocabulary: 400 rows of the source + 7 new (--new_token_init mean) = 407, padded to 512",
        "verify: all 21 tensors are bitwise equal (400 vocabulary rows compared)",
    ]
    assert out.splitlines()[4].startswith("verify: logits agree: differ by at most ")

    code, out, err = run(capsys, "to-hf", tmp_path / "ckpt", tmp_path / "hf", "--no_verify")
    assert code == 0
    assert out.splitlines()[-1] == ("not verified (--no_verify): neither the checkpoint's SHA256SUMS nor the result")

    code, out, err = run(capsys, "verify", tmp_path / "hf", tmp_path / "ckpt")
    assert code == 0
    assert out.splitlines()[0] == "verify: all 21 tensors are bitwise equal (407 vocabulary rows compared)"
    stops = "verify: chat template gives the pretokenizer's [0-9]+ ids, generation stops at the end of a turn"
    assert re.fullmatch(stops, out.splitlines()[2])

    (tmp_path / "hf" / "generation_config.json").write_text('{"eos_token_id": 2}')
    code, out, err = run(capsys, "verify", tmp_path / "hf", tmp_path / "ckpt")
    assert code == 1
    assert out.splitlines()[2] == "verify: chat DIFFERS: generation_config.json stops at [2], but a turn ends with 406"


def test_verify_exits_1_on_a_difference(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "verify", hf_folder("llama_tied"), converted("llama_gqa"))

    assert code == 1
    assert "its architecture differs from the checkpoint's: share_embeddings_and_output_weights" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["from-hf", "missing", "ckpt"], "error: missing/config.json: missing; missing does not exist"),
        (["to-hf", "missing", "hf"], "error: missing: no such checkpoint folder"),
        (["verify", "hf", "missing"], "error: hf/config.json: missing; hf does not exist"),
        (["verify", "--receipt", "hf"], "error: hf/receipt.json: missing; name a folder that to-hf wrote"),
        (["chat", "hf"], "error: hf/config.json: missing; hf does not exist"),
    ],
)
def test_a_missing_folder_is_one_line_and_exit_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    assert run(capsys, *arguments) == (1, "", message + "\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "from-hf OLD out",
        "to-hf OLD out",
        "to-hf OLD out --model llama2_7b",
        "from-megatron-core OLD out",
        "from-meta OLD out",
        "verify OLD OLD",
        "to-megatron-llm OLD out",
        "chat OLD",
    ],
)
def test_every_command_explains_a_folder_of_mp_rank_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "OLD" / "iter_0000500" / "mp_rank_00").mkdir(parents=True)
    (tmp_path / "OLD" / "latest_checkpointed_iteration.txt").write_text("500")

    code, out, err = run(capsys, *command.split())

    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "is a checkpoint in Megatron's old format" in err
    assert "`python -m checkpoint_convert from-megatron-llm OLD" in err
    assert "--ckpt-convert-format torch_dist" in err


def test_from_megatron_llm_refuses_a_checkpoint_of_megatron_lm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "iter_0000500" / "mp_rank_00" / "model_optim_rng.pt"
    file.parent.mkdir(parents=True)
    weights = {"decoder.layers.0.mlp.linear_fc1.weight": torch.zeros(1)}
    torch.save({"args": argparse.Namespace(num_layers=1), "checkpoint_version": 3.0, "model": weights}, file)

    code, _, err = run(capsys, "from-megatron-llm", tmp_path, tmp_path / "out")
    assert (code, "names one of iter_0000500; name that folder itself" in err) == (1, True)

    code, _, err = run(capsys, "from-megatron-llm", tmp_path / "iter_0000500", tmp_path / "out")
    assert (code, "Megatron-LM converts its own with --ckpt-convert-format torch_dist" in err) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["convert"],
        ["from-hf", "one"],
        ["to-hf", "a", "b", "--max_shard_size", "2XB"],
        ["to-hf", "a", "b", "--vocab_size", "some"],
        ["from-hf", "a", "b", "--dtype", "int8"],
        ["from-hf", "a", "b", "--new_token_init", "zero"],
    ],
)
def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = run(capsys, *arguments)

    assert (code, out) == (2, "")
    assert err.startswith("error: ") and "\nusage: checkpoint_convert" in err


def test_an_unknown_flag_of_a_command_is_refused_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "to-hf", "a", "b", "--max_shard", "2GB")

    assert (code, out) == (2, "")
    assert err == "error: unknown flag --max_shard (did you mean '--max_shard_size'?); --help lists all flags\n"
    assert "unknown flag --serve" in run(capsys, "to-hf", "a", "b", "--serve")[2]


def test_a_checkpoint_folder_in_use_is_refused(
    llama_with_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("500\n")

    code, _, err = run(capsys, "from-hf", llama_with_tokenizer, tmp_path / "run")

    assert code == 1
    assert "names checkpoint '500'; converted weights need a folder of their own" in err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(KeyboardInterrupt(), 130, "interrupted"), (OSError(5, "Unreadable", "f"), 1, "error: f: Unreadable")],
)
def test_a_comparison_cut_short_says_what_is_written(
    hf_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("checkpoint_convert.verify.verify.verify_weights", fail)

    found, _, err = run(capsys, "from-hf", hf_folder("llama_gqa"), tmp_path / "ckpt")
    assert found == code
    assert err.splitlines()[-1] == f"{words}; {tmp_path / 'ckpt' / 'release'} is written, but not verified"
    assert run(capsys, "verify", hf_folder("llama_gqa"), tmp_path / "ckpt") == (code, "", words + "\n")


@pytest.mark.slow
def test_from_hf_holds_no_tokens_against_the_source(
    llama_with_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (llama_with_tokenizer / "chat_template.jinja").write_text(CHAT_FORMATS["chatml"].hf_chat_template)

    code, out, _ = run(capsys, "from-hf", llama_with_tokenizer, tmp_path / "ckpt", "--vocab_extra_ids_list", CHATML)

    assert code == 0
    assert "chat" not in out.splitlines()[-1]
    assert run(capsys, "verify", llama_with_tokenizer, tmp_path / "ckpt")[0] == 1


def test_byte_size_reads_units() -> None:
    assert byte_size("2GB") == 2_000_000_000
    assert byte_size("1.5 GiB") == 1_610_612_736
    assert byte_size("500mb") == 500_000_000
    with pytest.raises(argparse.ArgumentTypeError):
        byte_size("0GB")


def test_token_list_takes_the_cards_stray_quotes_off() -> None:
    assert token_list('"<|im_start|>,<|im_end|>"') == ("<|im_start|>", "<|im_end|>")
    with pytest.raises(argparse.ArgumentTypeError):
        token_list("<a>,<a>")


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys, checkpoint_convert.__main__; from checkpoint_convert.command_line import build_parser; "
        "build_parser('').format_help(); sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
