"""SHARED, torch-free: recognize what a path holds, so that an error message names the command that reads it.

    foreign(Path("run"))      "is a DeepSpeed checkpoint; ...", or None for a checkpoint of this project
    described(Path("run"))    the same for any path, a checkpoint of this project included

The functions read only the names of files. They open no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CONVERT = "python -m checkpoint_convert"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""Matches the name of a model on the Hugging Face hub, ORG/NAME."""
OWN = ("model_config.yaml", "*/model_config.yaml", "train_config.yaml", "*/train_config.yaml")
"""Patterns of files in a checkpoint folder of this project."""
TAKE_ORIGINAL = "take the Hugging Face model from which it was made"
TO_TORCH_DIST = "--ckpt-convert-format torch_dist --ckpt-convert-save OUT, so that from-megatron-core can read OUT"
"""End of the messages about Megatron-LM's old format: the flags with which Megatron-LM converts it, and our command."""
OLD_MEGATRON = (
    "is a checkpoint in Megatron's old format, with mp_rank_* folders; "
    f"`{CONVERT} from-megatron-llm {{path}} CKPT_DIR` imports Megatron-LLM's, and Megatron-LM converts its own with "
    + TO_TORCH_DIST
)


@dataclass(frozen=True)
class Kind:
    """A format that a path may have: how to recognize it, and an error message that names the next step."""

    patterns: tuple[str, ...]
    """Glob patterns below a folder, or of a file's name. One match is enough. `NAME/` matches folders only."""
    message: str
    """The predicate of a sentence whose subject is the path.

    {path} stands for the path, {found} for the folder of the first match.
    """


FILES = (
    Kind(("*.gguf",), f"is a GGUF file, which llama.cpp reads; {TAKE_ORIGINAL}"),
    Kind(("*.nemo",), "is an archive of NeMo; export it to a Hugging Face folder with NeMo, then use from-hf"),
    Kind(
        ("*.zip", "*.tar", "*.gz", "*.tgz", "*.xz", "*.bz2", "*.zst", "*.7z", "*.rar"),
        "is an archive; unpack it and name the folder",
    ),
    Kind(
        ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.distcp"),
        "is one file of weights; name the folder of the model, which also holds its configuration and its tokenizer",
    ),
    Kind(("*",), "is a file; name a folder"),
)
FOLDERS = (
    Kind(
        ("adapter_config.json", "checkpoint-*/adapter_config.json"),
        "is a LoRA adapter instead of a whole model; merge it first: "
        "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(MERGED)",
    ),
    Kind(
        ("*fsdp*/.metadata", "*/*fsdp*/.metadata"),
        "is an FSDP checkpoint; merge {found} with `accelerate merge-weights`, then run from-hf on the merged folder",
    ),
    Kind(
        (".metadata", "*/.metadata", "weights/.metadata", "*/weights/.metadata"),
        "is a torch_dist checkpoint of another tool, because it has no model_config.yaml; "
        f"convert it with `{CONVERT} from-megatron-core {{path}} CKPT_DIR`, then use CKPT_DIR",
    ),
    Kind(("mp_rank_*/", "*/mp_rank_*/"), OLD_MEGATRON),
    Kind(
        ("*_model_states.pt", "*/*_model_states.pt", "zero_to_fp32.py"),
        "is a DeepSpeed checkpoint; turn it into pytorch_model.bin with DeepSpeed's zero_to_fp32.py, put the base "
        "model's config.json and tokenizer beside it, then run from-hf on that folder",
    ),
    Kind(
        ("model*.safetensors", "pytorch_model*.bin"),
        f"is a Hugging Face folder; convert it with `{CONVERT} from-hf {{path}} CKPT_DIR`, then use CKPT_DIR",
    ),
    Kind(
        ("consolidated.*.pth",),
        f"is a folder of Meta's weights; convert it with `{CONVERT} from-meta {{path}} CKPT_DIR`, then use CKPT_DIR",
    ),
    Kind(("*.gguf", "Modelfile", "blobs/sha256-*"), f"holds weights in GGUF, for llama.cpp or Ollama; {TAKE_ORIGINAL}"),
    Kind(("*.nemo",), "holds an archive of NeMo; export it to a Hugging Face folder with NeMo, then use from-hf"),
    Kind(
        ("*.onnx", "*.h5", "*.msgpack"),
        "holds weights for ONNX, TensorFlow or Flax; fetch the model's safetensors files instead",
    ),
    Kind(("snapshots/*/config.json",), "is a cache folder of the hub; name {found}"),
    Kind(("*.idx",), "holds shards of training data instead of a model; they belong to --train_data_path"),
    Kind(("config.json",), "is a Hugging Face folder without weights; fetch its safetensors files too"),
    Kind(("checkpoint-*/config.json",), "is the output folder of a trainer; name one of its checkpoints, as {found}"),
    Kind(("*/config.json",), "holds a Hugging Face folder; name {found}"),
    Kind(("tokenizer.json", "tokenizer.model"), "holds a tokenizer without a model"),
    Kind(
        ("iter_*/*", "global_step*/*"),
        "is a checkpoint of an unknown tool: it has neither model_config.yaml, .metadata nor mp_rank_* folders; export "
        "it to a Hugging Face folder with the tool that saved it, then run from-hf on that",
    ),
)


def foreign(path: Path) -> str | None:
    """Return what `path` is and what to do with it, if it is missing, empty, a file, or of another tool.

    Return None for a folder of this project, and for a folder that is not recognized.
    """
    if not path.exists():
        hub = f"; if it is a model on the hub, download it: hf download {path} --local-dir DIR"
        return "does not exist" + (hub if HUB_NAME.fullmatch(str(path)) else "")
    if path.is_file():
        return next(_message(kind, path) for kind in FILES if any(map(path.match, kind.patterns)))
    if any(_first(path, pattern) for pattern in OWN):
        return None
    if not any(path.iterdir()):
        return "is an empty folder"
    return next((message for kind in FOLDERS if (message := _message(kind, path))), None)


def described(path: Path) -> str:
    """Return what `path` is and what to do with it, as the predicate of a sentence whose subject is the path."""
    if any(_first(path, pattern) for pattern in OWN):
        return f"is a checkpoint of this project; `{CONVERT} to-hf {path} HF_DIR` exports it to a Hugging Face folder"
    return foreign(path) or "holds no model in a format that this project reads"


def _message(kind: Kind, path: Path) -> str:
    """Return the message of `kind` about a file, or about a folder with a match of its patterns; else an empty text."""
    found = path if path.is_file() else next(filter(None, (_first(path, pattern) for pattern in kind.patterns)), None)
    return kind.message.format(path=path, found=found.parent) if found else ""


def _first(folder: Path, pattern: str) -> Path | None:
    return min(folder.glob(pattern), default=None)
