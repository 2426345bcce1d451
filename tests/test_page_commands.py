"""Every command line on every page passes its program's own parser, and the cheap ones run.

A command of a page fails here for an unknown flag, a wrong choice or value, a missing argument, settings that exclude
one another, and a configuration, script or section that the repository does not have. `make` targets are expanded by
make itself, and the commands that they would run are checked in the same way.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import parse_args as parse_torchrun

from checkpoint_convert.__main__ import main as convert
from checkpoint_convert.command_line import build_parser as converter_parser
from megatron_train.certificate.plan import asked_layouts
from megatron_train.config.flags import build_parser as trainer_parser
from megatron_train.config.flags import parse
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.validate import validate
from megatron_train.launch import launch_parser
from megatron_train.parity import parity_parser
from megatron_train.planning.command import main as plan
from megatron_train.planning.command import plan_parser
from pretokenizer.__main__ import main as pretokenizer_main
from pretokenizer.__main__ import run_command
from pretokenizer.config.settings import PretokenizeConfig, RunOptions
from tests.paths import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
OTHER_PROGRAMS = {"vllm", "pre-commit", "docker", ".ci/run", ".venv/bin/pytest"}
"""Programs that are not of this project. Their command lines are not checked."""


class ParsedError(Exception):
    """A program has accepted its command line, and would now start its work."""


def blocks(page: str, language: str) -> list[str]:
    """Return the contents of a page's code blocks in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def block_commands(page: str) -> list[list[str]]:
    """Return the command lines in the shell blocks of a page, as words."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def inline_commands(page: str) -> list[list[str]]:
    """Return the command lines in the inline code of a page, as words, without those that leave out a part (`...`)."""
    codes = re.findall(r"`([^`\n]+)`", (ROOT / page).read_text(encoding="utf-8"))
    return [shlex.split(code) for code in codes if code.startswith(("make ", "python -m ")) and "..." not in code]


@pytest.fixture
def parsing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder with configs/ and examples/, and stop each program when it has understood its command line."""
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)

    def stop(*arguments: Any, **keywords: Any) -> None:
        raise ParsedError

    for target in (
        "build.build",
        "merge.build_part",
        "merge.merge",
        "output.inspect_documents.inspect_path",
        "output.check.check_path",
        "audit.show.audit",
    ):
        monkeypatch.setattr(f"pretokenizer.{target}", stop)
    yield tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_a_pages_commands_are_understood(page: str, parsing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in blocks(page, "yaml"):
        (parsing / f"{text.partition(':')[0]}.yaml").write_text(text)
    found = [*block_commands(page), *inline_commands(page)]
    for words in found:
        if words[0] != "make":
            check_command(words, monkeypatch)
    assert found


def check_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless the program of a command line accepts it."""
    if words[0] == "torchrun":
        options = parse_torchrun(words[1:])
        assert options.module and options.training_script == "megatron_train", words
        check_training(options.training_script_args, int(options.nproc_per_node) * int(options.nnodes.split(":")[-1]))
    elif words[0] == "sbatch":
        script = next(word for word in words if word.endswith(".sbatch"))
        text = (ROOT / script).read_text(encoding="utf-8")
        config = re.search(r"^CONFIG=\$\{CONFIG:-(.*)\}", text, re.MULTILINE)
        assert config, script
        parse(["--config", config[1], *words[words.index(script) + 1 :]])
    elif words[:2] == ["python", "-m"]:
        check_module(words[2], words[3:], monkeypatch)
    else:
        assert words[0] in OTHER_PROGRAMS, words


def check_module(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless `python -m MODULE WORDS` is accepted. A module that a page only names must exist."""
    if module == "megatron_train":
        check_trainer(words)
    elif module == "checkpoint_convert":
        if words:
            converter_parser("").parse(words)
    elif module == "pretokenizer":
        with pytest.raises((ParsedError, SystemExit)) as ended:
            run_command(words)
        assert not (ended.type is SystemExit and ended.value.code), words
    elif not words:
        assert find_spec(module), module
    elif module != "tests.source_tree":
        check_program(module, words, monkeypatch)


def check_program(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless the argparse parser in the `main` of a module accepts the words. Nothing after the parser runs."""
    original = ArgumentParser.parse_args

    def parse_and_stop(parser: ArgumentParser, *arguments: Any) -> None:
        original(parser, *arguments)
        raise ParsedError

    path = ROOT / module.replace(".", "/")
    program = importlib.import_module(f"{module}.__main__" if path.is_dir() else module)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [module, *words])
        patch.setattr(ArgumentParser, "parse_args", parse_and_stop)
        with pytest.raises(ParsedError):
            program.main()


def check_trainer(words: list[str]) -> None:
    """Check a command of megatron_train. A `plan` is cheap, so it runs, but without the search for other layouts."""
    if words[:1] == ["plan"]:
        if words[1:]:
            assert plan([word for word in words[1:] if word != "--suggest"]) == 0
    elif words[:1] == ["parity"]:
        own, rest = parity_parser().parse_known_args(words[1:])
        assert asked_layouts(parse(rest), own.layouts, own.world_size)
    elif words[:1] == ["evaluate"]:
        check_training(words[1:], 1, is_training=False)
    else:
        check_training(words, 1)


def check_training(words: list[str], num_ranks: int, is_training: bool = True) -> None:
    """Check the flags and the settings of a training run or an evaluation on a number of ranks."""
    command = parse(words)
    validate(command, ParallelLayout.planned(command.config.parallel, num_ranks), is_training)


@pytest.mark.parametrize(
    "line",
    [
        "python -m checkpoint_convert to-hf a b --max_shard_sise 5GB",
        "python -m checkpoint_convert to-hf a",
        "python -m checkpoint_convert from-hf a b --new_token_init zero",
        "python -m pretokenizer build --configs no_such_section llama2",
        "python -m pretokenizer build --configs oasst_pre10 llama2 --worker 8",
        "python -m pretokenizer merge part0",
        "python -m megatron_train plan --config falcon-7b-sft-top1-696 --world_size 8 --gpu h1000",
        "python -m megatron_train parity --config falcon-7b-sft-top1-696 --layouts tp2,zz3",
        "python -m megatron_train evaluate --load a --valid_data_path b --seq_len 5",
        "torchrun --nproc_per_node 3 -m megatron_train --config falcon-7b-sft-top1-696 --tensor_model_parallel_size 2",
        "torchrun --nproc_per_nodes 2 -m megatron_train --config falcon-7b-sft-top1-696",
        "sbatch examples/slurm/train_stage1.sbatch --lrs 5e-6",
        "python -m examples.sampling a --nn 3",
        "python -m no_such_module",
        "curl x",
    ],
)
def test_a_wrong_command_is_found(line: str, parsing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((Exception, SystemExit, pytest.fail.Exception)):
        check_command(shlex.split(line), monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_make_commands_of_a_page_exist(page: str) -> None:
    for words in [*block_commands(page), *inline_commands(page)]:
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:.*## ", MAKEFILE, re.MULTILINE), f"`make help` does not list {words[1]}"
            for setting in words[2:]:
                name = setting.partition("=")[0]
                assert f"$({name}" in MAKEFILE or f",{name}" in MAKEFILE, setting


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_behind_make_are_understood(page: str, parsing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in block_commands(page):
        if words[0] == "make":
            command = ["make", "--dry-run", "--directory", str(ROOT), *words[1:]]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for line in shown.replace("\\\n", " ").splitlines():
                program = re.match(r"\S*/python (?:-W ignore )?-m (?!pytest|pip |venv)(.*)", line)
                if program:
                    check_command(["python", "-m", *shlex.split(program[1])], monkeypatch)


OTHER_FLAGS = {
    "--max-restarts": "torchrun",
    "--gpus-per-task": "Slurm",
    "--ckpt-convert-format": "Megatron-LM",
    "--ckpt-convert-save": "Megatron-LM",
    "--ckpt-format": "Megatron-LM",
    "--dist-ckpt-strictness": "Megatron-LM",
    "--finetune": "Megatron-LM",
    "--no-load-optim": "Megatron-LM",
    "--no-load-rng": "Megatron-LM",
    "--norm-epsilon": "Megatron-LM",
    "--qk-layernorm": "Megatron-LM",
    "--use-checkpoint-args": "Megatron-LM",
}
"""Flags on the pages that belong to another program."""


def known_flags() -> set[str]:
    """Return every flag of the three packages and of the programs in examples/ that the pages mention."""
    parsers = [trainer_parser(shows_all=True), plan_parser(), parity_parser(), launch_parser()]
    parsers += [each for action in converter_parser("")._actions if action.choices for each in action.choices.values()]
    flags = {flag for parser in parsers for flag in parser._option_string_actions}
    flags |= {f"--{name}" for cls in (PretokenizeConfig, RunOptions) for name in cls.__dataclass_fields__}
    return flags | {"--configs", "--config_dir", "--num", "--plain", "--help", "--help_all"} | set(OTHER_FLAGS)


@pytest.mark.parametrize("page", PAGES)
def test_flags_that_a_page_mentions_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    codes = [code for code in re.findall(r"`([^`\n]+)`", text) if not code.startswith(("make ", "python -m tests."))]
    flags = {flag for code in codes for flag in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", code)}
    assert flags - known_flags() == set()


@pytest.mark.slow
def test_the_way_from_a_jsonl_on_the_data_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("data/my_chats", "base", "path/to/base"):
        Path(folder).mkdir(parents=True)
    Path("data/my_chats/chats.jsonl").write_text(blocks("docs/data.md", "json")[0])
    Path("my_chats.yaml").write_text(blocks("docs/data.md", "yaml")[0])
    shutil.copy(ROOT / "examples/data/tokenizer/sample.model", "base/tokenizer.model")
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    Path("path/to/base/tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    seen = []
    for words in block_commands("docs/data.md"):
        if words[:3] == ["python", "-m", "pretokenizer"] and not {"oasst_pre10", "merge"} & set(words):
            if words[3] == "build":
                shutil.rmtree("shards", ignore_errors=True)
            assert pretokenizer_main(words[3:]) == 0, words
            seen.append(words[3])
    assert seen == ["build", "inspect", "check", "build", "inspect"]
    assert "Hi, how can I help?" in capsys.readouterr().out


@pytest.mark.slow
def test_the_checkpoint_pages_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands between a Hugging Face folder and its export run on a small model with random weights."""
    monkeypatch.chdir(tmp_path)
    tokenizer = str(ROOT / "examples/data/tokenizer/sample.model")
    monkeypatch.setattr(sys, "argv", ["make_tiny_llama", "path/to/base", "--tokenizer", tokenizer])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert importlib.import_module("examples.make_tiny_llama").main() == 0
    seen = []
    for words in block_commands("docs/checkpoints.md"):
        command = words[3] if words[:3] == ["python", "-m", "checkpoint_convert"] else ""
        if command not in ("from-hf", "to-hf", "verify", "chat") or "--push_to_hub" in words:
            continue
        if command == "to-hf":
            shutil.rmtree("my-model", ignore_errors=True)
        assert convert(words[3:]) == 0, f"{words}\n{capsys.readouterr()}"
        if command == "from-hf":
            Path("checkpoints/tuned").symlink_to("base")
        seen.append(command)
    assert seen == ["from-hf", "to-hf", "verify", "chat", "to-hf", "verify"]
    assert "license: apache-2.0" in Path("my-model/README.md").read_text()
