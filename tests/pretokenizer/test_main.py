"""Commands as a user types them, with their output, errors and exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretokenizer.__main__ import main
from tests.paths import ROOT
from tests.pretokenizer.conftest import SAMPLE_MODEL, question_records, write_jsonl


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a new folder with a few gsm8k records in data/ and a section `mine`, and return it."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(3))
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(1))
    (tmp_path / "sections").mkdir()
    (tmp_path / "sections/mine.yaml").write_text("mine:\n  datasets: [gsm8k]\n")
    return tmp_path


BUILD = ["build", "--configs", "mine", "sample", "--config_dir", "sections"]


def test_build_check_inspect_merge(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BUILD, "--write_json", "--eval_size", "1", "--min_assistant_tokens", "2"]) == 0
    out = capsys.readouterr().out
    assert "finished: output/mine_sample" in out and "train: 3 documents" in out
    assert (here / "output/mine_sample/mine-train.jsonl").read_text().count("\n") == 3
    assert main(["check", "output/mine_sample"]) == 0
    assert "output/mine_sample: sound: " in capsys.readouterr().out
    assert main(["inspect", "output/mine_sample", "--num", "1", "--plain"]) == 0
    assert "[assistant*:" in capsys.readouterr().out
    assert main(["audit", *BUILD[1:], "--num", "2"]) == 0
    assert "2 conversations, " in capsys.readouterr().out
    assert main([*BUILD, "--write_json", "--part", "0", "--num_parts", "1", "--output_dir", "apart"]) == 0
    assert "part: apart_sample.parts/part-00000-of-00001" in capsys.readouterr().out
    assert main(["merge", "apart_sample.parts/part-00000-of-00001", "--output_dir", "joined"]) == 0
    assert (here / "joined/mine-train-text.bin").is_file()
    (here / "joined/stats.md").write_text("x")
    assert main(["check", "joined"]) == 1
    assert "joined: 1 problem found" in capsys.readouterr().out


def test_flags_of_keys(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--output_dir=flat", "--output_dir_suffix", "", "--no-eval_size", "--datasets", "gsm8k", "--compress"]
    assert main([*BUILD, *flags, "--vocab_file", str(SAMPLE_MODEL), "--special_tokens_in_text", "encode"]) == 0
    assert (here / "flat/manifest.json").is_file() and (here / "flat.tar.gz").is_file()
    import tarfile

    with tarfile.open(here / "flat.tar.gz") as archive:
        assert "flat/manifest.json" in archive.getnames()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "no command given; commands: build, merge, inspect, check, audit"),
        (["bild"], 2, "unknown command 'bild' (did you mean 'build'?)"),
        (["build"], 2, "the following arguments are required: --configs"),
        (
            [*BUILD, "--min_assistant_token", "3"],
            2,
            "unknown flag --min_assistant_token (did you mean '--min_assistant_tokens'?)",
        ),
        ([*BUILD, "--rng_seed", "many"], 2, "rng_seed: expected a whole number, found 'many'"),
        (["build", "--configs", "mine", "loose"], 2, "no section 'mine'"),
        ([*BUILD, "--dedup", "exact", "loose"], 2, "unrecognized arguments: loose"),
        (["build", "--configs", "oasst_top1"], 2, "vocab_file: not set; add a tokenizer section"),
        (["build", "--configs", "mine", "llama2", "--config_dir", "sections"], 1, "TOKENIZER=sample"),
        (["build", "--configs", "oasst_top1", "sample"], 1, "no file data/2023-07-23_oasst_ready.tar.gz nor "),
        ([*BUILD, "--datasets", "gsm9k"], 2, "no data set 'gsm9k' (did you mean 'gsm8k'?)"),
        ([*BUILD, "--chat_format", "chatmk"], 2, "chat_format 'chatmk' is not known (did you mean 'chatml'?)"),
        ([*BUILD, "--part", "0"], 2, "--part and --num_parts must be given together"),
        (["check", "nothing"], 1, "nothing-text.idx: cannot open"),
        (["inspect", "nothing"], 1, "nothing-text.idx: cannot open"),
        (["merge", "nothing", "--output_dir", "x"], 1, "plan.json: missing"),
    ],
)
def test_bad_input(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert "Traceback" not in captured.err
    assert not list(here.glob("output/*_sample")) and not list(here.glob("output/*_llama2"))


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "python -m pretokenizer build --configs" in capsys.readouterr().out
    with pytest.raises(SystemExit) as status:
        main(["build", "--help"])
    assert status.value.code == 0 and "min_assistant_tokens" in capsys.readouterr().out


def test_the_exit_status_of_a_process(here: Path) -> None:
    command = [sys.executable, "-m", "pretokenizer", *BUILD, "--data_dir", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1 and done.stdout == ""
    assert "error: " in done.stderr and "nowhere/gsm8k" in done.stderr and "Traceback" not in done.stderr
