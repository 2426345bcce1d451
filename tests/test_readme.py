"""The README's tree names every source file once, with a comment, and its make targets exist."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.paths import ROOT

README = (ROOT / "README.md").read_text()
PACKAGES = ("pretokenizer", "megatron_train", "checkpoint_convert", "examples", "benchmarks")


def tree_entries() -> dict[str, str]:
    """path -> comment, from the block between the tree marks; indentation is the folder."""
    block = README.split("<!-- tree -->")[1].split("<!-- /tree -->")[0].strip().strip("`").strip("\n")
    entries, folders = {}, [""]
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, comment = line.strip().partition("  ")
        folders[depth + 1 :] = [folders[depth] + name] if name.endswith("/") else []
        entries[folders[depth] + name] = comment.strip()
    return entries


def source_files() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" or path.stat().st_size > 0
    }


def test_tree_names_every_source_file_and_no_other() -> None:
    named = {path for path in tree_entries() if path.endswith(".py")}
    assert source_files() - named == set()
    assert named - source_files() == set()


def test_tree_has_a_comment_for_each_entry() -> None:
    assert [path for path, comment in tree_entries().items() if not comment] == []


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^\s*make ([a-z]+)", README, re.MULTILINE))))
def test_make_targets_of_the_readme_exist(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:.* ## ", makefile, re.MULTILINE), f"`make help` does not list {target}"


def test_make_help_is_the_default_target_and_lists_the_two_commands() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make demo" in shown
    assert "make test" in shown
