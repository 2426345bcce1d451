"""The rules of docs/architecture.md: the direction of imports, SHARED modules, and the sizes of files and folders."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.import_graph import PACKAGES, circles, file_graph, folder_graph, imports_of, sources
from tests.paths import ROOT

FOLDER_ORDER = {
    "pretokenizer": "config files records template tokenizer chat encode forms sources tasks selection figures reports"
    " audit output *",
    "megatron_train": "config report parallel data model optim checkpoint planning certificate *",
    "checkpoint_convert": "tensors output mapping families huggingface megatron_core verify other_formats *",
}
"""A folder imports only from the folders named before it. `*` stands for the files in the package's root folder."""
LONGEST_FILE, LONGEST_MEDIAN, LARGEST_FOLDER = 300, 120, 12
"""Lines, lines, and source files directly in a folder."""
SHARED = {
    "pretokenizer": {
        "chat.conversation",
        "chat.formats",
        "chat.jinja_format",
        "chat.roles",
        "config.flags",
        "config.paths",
        "config.yaml_config",
        "figures.packing",
        "files.checksums",
        "files.limits",
        "files.manifest",
        "files.publish",
        "files.shard",
        "tokenizer.base",
        "tokenizer.json_tokenizer",
        "tokenizer.load",
        "tokenizer.sentencepiece_json",
        "tokenizer.sentencepiece_tokenizer",
    },
    "megatron_train": {
        "checkpoint.folder",
        "checkpoint.recognize",
        "config.megatron_args",
        "config.norm_names",
        "checkpoint.safe_pickle",
        "config.changed",
        "config.model_config",
        "config.parallel_layout",
        "inference",
        "parallel.device",
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


def test_no_file_and_no_folder_imports_itself_through_others() -> None:
    graph = file_graph()
    assert len(graph) > 100
    assert circles(graph) == []
    assert circles(folder_graph(graph)) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_import_only_from_the_folders_before_them(package: str) -> None:
    order = [f"{package}.{folder}" for folder in FOLDER_ORDER[package].split()]
    graph = folder_graph(file_graph())
    assert {folder for folder in graph if folder.startswith(f"{package}.")} == set(order)
    backward = [
        f"{folder} imports {other}"
        for place, folder in enumerate(order)
        for other in graph[folder]
        if other.startswith(f"{package}.") and other not in order[:place]
    ]
    assert backward == []


def test_an_import_that_closes_a_circle_is_found(tmp_path: Path) -> None:
    for name, text in {
        "chat/roles.py": "from pretokenizer.files.shard import Shard",
        "files/shard.py": "def read():\n    from pretokenizer.config import settings",
        "config/settings.py": "import pretokenizer.chat.roles as roles",
        "build.py": "import pretokenizer.chat.roles",
    }.items():
        path = tmp_path / "pretokenizer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = file_graph(tmp_path)
    assert circles(graph) == ["pretokenizer.chat.roles pretokenizer.config.settings pretokenizer.files.shard"]
    assert circles(folder_graph(graph)) == ["pretokenizer.chat pretokenizer.config pretokenizer.files"]


def test_files_and_folders_stay_small() -> None:
    lines = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines())
        for package in PACKAGES
        for path in sources(package)
        if path.stat().st_size
    }
    assert {str(path): count for path, count in lines.items() if count > LONGEST_FILE} == {}
    assert statistics.median(lines.values()) <= LONGEST_MEDIAN
    folders = Counter(str(path.parent) for path in lines if path.name != "__init__.py")
    assert {folder: count for folder, count in folders.items() if count > LARGEST_FOLDER} == {}


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
    """A fresh interpreter imports them, because other tests import torch here. Indirect imports count too."""
    program = (
        "import importlib, sys\n"
        f"for name in {TORCH_FREE!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'megatron', 'transformers'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_jinja_is_imported_only_with_a_template() -> None:
    """A fresh interpreter imports the package, because other tests import jinja2 here."""
    program = (
        "import sys\n"
        "import checkpoint_convert.convert, pretokenizer.build\n"
        "from pretokenizer.chat.formats import get_chat_format\n"
        "get_chat_format('chatml')\n"
        "assert 'jinja2' not in sys.modules\n"
        "from pretokenizer.template.rendering import CompiledTemplate\n"
        "template = CompiledTemplate('{{ messages[0].content }}', 't.jinja', {}, '2025-01-31')\n"
        "print(template.text([{'role': 'user', 'content': 'Hi'}]), 'jinja2' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("Hi True\n", "")


def test_no_source_of_the_pretokenizer_mentions_torch() -> None:
    for path in sources("pretokenizer"):
        assert not {name for name in imports_of(path) if name.split(".")[0] in {"torch", "megatron", "transformers"}}, (
            path
        )
