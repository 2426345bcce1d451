"""The commands of the README exist, and docs/architecture.md lists every source file."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.paths import ROOT
from tests.source_tree import source_tree, tree_of_page

README = (ROOT / "README.md").read_text()


def test_the_tree_of_the_architecture_page_is_up_to_date() -> None:
    assert tree_of_page() == source_tree(), "run: python -m tests.source_tree --write"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^\s*make ([a-z]+)", README, re.MULTILINE))))
def test_make_targets_of_the_readme_exist(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:.* ## ", makefile, re.MULTILINE), f"`make help` does not list {target}"


def test_make_help_is_the_default_target_and_lists_the_two_commands() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make demo" in shown
    assert "make test" in shown
