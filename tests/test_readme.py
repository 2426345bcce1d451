"""Links on the pages lead somewhere, the README's example runs, and the tree of files is up to date."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples import make_tiny_llama
from tests.forked import run_forked
from tests.paths import ROOT
from tests.source_tree import source_tree, tree_of_page

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_of_the_architecture_page_is_up_to_date() -> None:
    assert tree_of_page() == source_tree(), "run: python -m tests.source_tree --write"


def test_the_readme_has_at_most_120_lines() -> None:
    assert len(README.splitlines()) <= 120


def test_links_and_files_that_pages_name_exist() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        linked = [(ROOT / page).parent / target for target in re.findall(r"\]\(([^):#]+)\)", text)]
        named = [
            ROOT / name
            for name in re.findall(
                r"`((?:pretokenizer|megatron_train|checkpoint_convert|tests|docs|examples)/[\w/.]+)`", text
            )
        ]
        assert [path for path in [*linked, *named] if not path.exists()] == [], page


def test_make_help_is_the_default_target_and_lists_the_two_commands() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make demo" in shown
    assert "make test" in shown


def test_the_example_of_your_own_data_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's YAML and five commands run unchanged, but with a small model, three iterations and no torchrun."""
    section = README.split("## Your own data")[1]
    (tmp_path / "my_chats.yaml").write_text(section.split("```yaml\n")[1].split("```")[0])
    (tmp_path / "data" / "my_chats").mkdir(parents=True)
    shutil.copy(ROOT / "examples/data/messages/train.jsonl", tmp_path / "data" / "my_chats" / "chats.jsonl")
    tokenizer = str(ROOT / "examples/data/tokenizer/sample.model")
    monkeypatch.setattr(sys, "argv", ["make_tiny_llama.py", str(tmp_path / "base"), "--tokenizer", tokenizer])
    assert make_tiny_llama.main() == 0
    lines = section.split("```bash\n")[1].split("```")[0].replace("\\\n", " ").splitlines()
    assert len(lines) == 5
    run_forked(tmp_path, *map(forked_line, lines))
    assert (tmp_path / "my-model" / "model.safetensors").is_file()
    assert len((tmp_path / "checkpoints" / "tuned" / "metrics.jsonl").read_text().splitlines()) >= 3


def forked_line(line: str) -> str:
    """Return a command of the README as a line of tests/forked.py."""
    words = shlex.split(line)
    if words[0] == "torchrun":
        assert words[1] == "--nproc_per_node" and words[3:5] == ["-m", "megatron_train"]
        processes, program, words = words[2], "trainer", words[5:]
        words[words.index("--train_iters") + 1] = "3"
        words += ["--max_position_embeddings", "2048"]
    else:
        assert words[:2] == ["python", "-m"]
        programs = {"pretokenizer": "pretokenizer", "checkpoint_convert": "converter"}
        processes, program, words = "1", programs[words[2]], words[3:]
    return shlex.join([processes, program, *words])
