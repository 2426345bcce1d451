"""Imports point upstream only (pretokenizer <- megatron_train <- checkpoint_convert), and only to SHARED modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = ("pretokenizer", "megatron_train", "checkpoint_convert")
"""Upstream first."""
SHARED = {
    "pretokenizer": {
        "chat.conversation",
        "chat.formats",
        "chat.jinja_format",
        "chat.roles",
        "config.yaml_config",
        "files.limits",
        "files.manifest",
        "files.publish",
        "files.shard",
        "tokenizer.tokenizer",
    },
    "megatron_train": {
        "checkpoint.folder",
        "checkpoint.safe_pickle",
        "config.model_config",
        "config.parallel_layout",
        "model.build",
    },
    "checkpoint_convert": set(),
}
TORCH_FREE = [
    *(f"pretokenizer.{name}" for name in sorted(SHARED["pretokenizer"])),
    "pretokenizer.__main__",
    "megatron_train.config.model_config",
    "megatron_train.config.parallel_layout",
    "megatron_train.checkpoint.folder",
    "megatron_train.checkpoint.safe_pickle",
    "megatron_train.config.settings",
    "megatron_train.config.flags",
    "megatron_train.config.validate",
    "megatron_train.optim.lr_schedule",
    "megatron_train.data.batch",
    "megatron_train.data.packing",
    "megatron_train.data.sampler",
    "megatron_train.data.sft_dataset",
]


def imports_of(path: Path) -> set[str]:
    """Full names of the modules and names that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_upstream_and_to_shared_modules(package: str) -> None:
    assert len(sources(package)) > 5
    upstream = PACKAGES[: PACKAGES.index(package)]
    wrong = []
    for path in sources(package):
        for name in imports_of(path):
            other, _, rest = name.partition(".")
            if other not in PACKAGES or other == package:
                continue
            is_shared = any(rest == module or rest.startswith(f"{module}.") for module in SHARED[other])
            if other not in upstream or not is_shared:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_init_files_import_nothing_but_registries(package: str) -> None:
    registries = {"pretokenizer/sources/__init__.py", "checkpoint_convert/families/__init__.py"}
    for path in (ROOT / package).rglob("__init__.py"):
        if str(path.relative_to(ROOT)) not in registries:
            assert imports_of(path) == set(), path


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_does(package: str) -> None:
    for path in sources(package):
        if path.name != "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_no_module_is_named_like_the_standard_library_or_a_drawer() -> None:
    names = {path.stem for package in PACKAGES for path in sources(package)} - {"__init__", "__main__"}
    assert not names & sys.stdlib_module_names
    assert not names & {"utils", "helpers", "common", "misc"}


def test_the_pretokenizer_and_shared_modules_import_no_torch() -> None:
    """In a fresh interpreter, as other tests have imported it here; transitively, so that no detour counts."""
    program = (
        "import importlib, sys\n"
        f"for name in {TORCH_FREE!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'megatron', 'transformers'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_source_of_the_pretokenizer_mentions_torch() -> None:
    for path in sources("pretokenizer"):
        assert not {name for name in imports_of(path) if name.split(".")[0] in {"torch", "megatron", "transformers"}}, (
            path
        )
