"""The tree of docs/architecture.md: every source file with the first sentence of its docstring.

    python -m tests.source_tree             print the tree
    python -m tests.source_tree --write     replace the tree in docs/architecture.md

Run it after you add, move or describe a file. tests/test_readme.py compares the page with the files.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from tests.paths import ROOT

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree -->\n```\n", "```\n<!-- /tree -->"
FOLDERS = {
    "pretokenizer": "conversations -> shards; imports no torch",
    "pretokenizer/config": "YAML sections and flags -> the configuration of a build",
    "pretokenizer/files": "shards, manifest, and publishing without half-written files",
    "pretokenizer/records": "files or the hub -> records",
    "pretokenizer/template": "running any Jinja chat template, and the owner of every character it renders",
    "pretokenizer/tokenizer": "SentencePiece models and tokenizer.json files",
    "pretokenizer/chat": "conversations, roles and chat formats",
    "pretokenizer/forms": "turn records of any form into messages",
    "pretokenizer/sources": "records -> conversations, one file per family of data sets",
    "pretokenizer/encode": "conversations -> token ids and role ids",
    "pretokenizer/tasks": "the pieces of a build and the processes that run them",
    "pretokenizer/selection": "all documents -> the documents of train and val",
    "pretokenizer/figures": "documents -> statistics, and what became of every record",
    "pretokenizer/reports": "figures -> stats.md, stats.html, stats.json and the last lines of a build",
    "pretokenizer/audit": "which tokens get loss, by this build and by the rules of others",
    "pretokenizer/output": "writing, checking and showing shards",
    "megatron_train": "shards -> checkpoint",
    "megatron_train/config": "YAML file and flags -> the configuration of a run",
    "megatron_train/data": "shards -> batches",
    "megatron_train/model": "the model on megatron-core",
    "megatron_train/optim": "optimizer, loss and learning rate",
    "megatron_train/parallel": "processes and devices",
    "megatron_train/checkpoint": "checkpoints on disk",
    "megatron_train/report": "console, metrics and trackers",
    "megatron_train/planning": "memory, time and layouts without a GPU",
    "megatron_train/certificate": "comparing a layout with one process, on the CPU",
    "checkpoint_convert": "checkpoint <-> Hugging Face and other formats",
    "checkpoint_convert/output": "what a conversion prints, and how it publishes a folder",
    "checkpoint_convert/tensors": "tensors in files, read and written one at a time",
    "checkpoint_convert/mapping": "how tensors of one format become tensors of another",
    "checkpoint_convert/families": "one weight table per model family",
    "checkpoint_convert/huggingface": "files of a Hugging Face folder",
    "checkpoint_convert/megatron_core": "files of a megatron-core checkpoint",
    "checkpoint_convert/verify": "comparing both sides of a conversion",
    "checkpoint_convert/other_formats": "checkpoints of Meta and Megatron-LLM",
    "examples": "sample records, the demo, launch scripts",
    "examples/cards": "the published models: `make stage1`, `cards`, `simulate`, `report`",
    "examples/evaluation": "`make evaluate`: lm-eval on an exported folder, and its results in the model card",
    "examples/page": "`make page`: report.html, one page about a model",
    "examples/sampling": "`make sample`: continuations of prompts, as reports",
    "benchmarks": "speed and memory, printed as ratios",
    "benchmarks/gpu_parts": "the parts of `make gpu-report`",
}
"""The content of each folder in one line, in the order of the tree. An undescribed folder stops the command."""


def source_tree() -> str:
    """Return the tree, one line per folder and file. Raises ValueError for a folder without a description."""
    lines = []
    for folder in folders_in_order():
        indent = "  " * folder.count("/")
        lines.append(f"{indent}{folder.rpartition('/')[2]}/  {FOLDERS[folder]}")
        lines += [f"{indent}  {path.name}  {first_sentence(path)}" for path in source_files(folder)]
    return "\n".join(lines) + "\n"


def folders_in_order() -> list[str]:
    """Return every folder with source files, packages in the order of FOLDERS."""
    tops = [folder for folder in FOLDERS if "/" not in folder]
    found = {
        str(path.parent.relative_to(ROOT)) for top in tops for path in (ROOT / top).rglob("*.py") if path.stat().st_size
    }
    if unknown := found - set(FOLDERS):
        raise ValueError(f"tests/source_tree.py: FOLDERS does not describe {', '.join(sorted(unknown))}")
    return [folder for folder in FOLDERS if folder in found]


def source_files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).glob("*.py") if path.stat().st_size)


def first_sentence(path: Path) -> str:
    """Return the first sentence of the docstring of a file. Raises ValueError when the file has no docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{path.relative_to(ROOT)}: the file has no docstring")
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    sentence = re.match(r".*?[.?!](?= |$)", paragraph)
    return sentence[0] if sentence else paragraph


def tree_of_page() -> str:
    return parts_of_page()[1]


def parts_of_page() -> tuple[str, str, str]:
    """Return the text before the tree, the tree, and the text after it."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    tree, after = rest.split(END)
    return before + BEGIN, tree, END + after


def main() -> int:
    tree = source_tree()
    if sys.argv[1:] == ["--write"]:
        before, _, after = parts_of_page()
        PAGE.write_text(before + tree + after, encoding="utf-8")
    else:
        print(tree, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
