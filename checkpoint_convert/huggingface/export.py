"""The plan of an exported folder, and its files beside the weights: config, tokenizer, generation, model card.

export = plan_export(Path("CKPT_DIR/iter_0000500"), vocab_size="auto")
write_companions(export, torch.bfloat16, "ORG/NAME", Path("HF_DIR"))
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import HfConfig
from checkpoint_convert.huggingface.generation import SpecialIds, generation_settings, write_generation_config
from checkpoint_convert.huggingface.model_card import model_card
from checkpoint_convert.huggingface.tokenizer import recorded_chat_format, special_ids, write_tokenizer_files
from checkpoint_convert.mapping.checks import rows_to_write
from checkpoint_convert.mapping.rules import Table
from checkpoint_convert.output.report import warn
from checkpoint_convert.tensors.tensor import dtype_name
from megatron_train.checkpoint.folder import MODEL_CONFIG, TOKENIZER_DIR
from megatron_train.config.model_config import ModelConfig
from pretokenizer.chat.formats import ChatFormat
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer_folder


@dataclass(frozen=True)
class Export:
    """Everything that an export knows before it reads the first tensor."""

    checkpoint: Path
    model: ModelConfig
    config: HfConfig
    """config.json without token ids, dtype and vocab_size."""
    table: Table
    tokenizer: Tokenizer | None
    chat_format: ChatFormat | None
    ids: SpecialIds | None
    rows: int
    """Vocabulary rows to write."""

    def describe_rows(self) -> str:
        """Return e.g. `32,007 rows written of 32,128 (32,007 in use)`."""
        return f"{self.rows:,} rows written of {self.model.padded_vocab:,} ({self.model.vocab_size:,} in use)"


def plan_export(checkpoint: Path, vocab_size: str) -> Export:
    """Plan the export of one checkpoint folder. Raises ConvertError or TokenizerError."""
    model = ModelConfig.load(checkpoint / MODEL_CONFIG)
    family = FAMILIES[model.family]
    config, table = family.hf_config(model), family.table(model)
    tokenizer, chat_format = checkpoint_tokenizer(checkpoint)
    ids = special_ids(tokenizer, chat_format) if tokenizer else None
    rows = rows_to_write(model, tokenizer, vocab_size)
    return Export(checkpoint, model, config, table, tokenizer, chat_format, ids, rows)


def checkpoint_tokenizer(checkpoint: Path) -> tuple[Tokenizer | None, ChatFormat | None]:
    """Return the tokenizer in the checkpoint folder and the chat format recorded with it."""
    folder = checkpoint / TOKENIZER_DIR
    if not folder.is_dir():
        warn(f"{checkpoint} has no {TOKENIZER_DIR}/ folder: the export gets weights and config, but no tokenizer")
        return None, None
    tokenizer = load_tokenizer_folder(folder)
    return tokenizer, recorded_chat_format(folder, tokenizer)


def write_companions(export: Export, dtype: torch.dtype, name: str, folder: Path) -> None:
    """Write every file of the export except the weights. `name` is the model's name in its card."""
    generation = generation_settings(export.checkpoint, {})
    write_config(export, token_ids(export.ids, generation), dtype, folder)
    write_generation_config(export.ids, generation, folder)
    tokenizer, chat_format = export.tokenizer, export.chat_format
    if tokenizer is not None:
        write_tokenizer_files(tokenizer, chat_format, folder, export.model.max_position_embeddings)
    card = model_card(name, export.model, export.checkpoint, tokenizer, chat_format)
    (folder / "README.md").write_text(card, encoding="utf-8")


def token_ids(ids: SpecialIds | None, generation: HfConfig) -> HfConfig:
    """Return the token ids for config.json: the tokenizer's, else the source's, else none."""
    if ids is not None:
        return {"bos_token_id": ids.bos, "eos_token_id": ids.end_of_turn, "pad_token_id": ids.pad}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: generation[name] for name in names if name in generation}


def write_config(export: Export, tokens: HfConfig, dtype: torch.dtype, folder: Path) -> None:
    """Write config.json. transformers 5 reads `dtype`, older readers read `torch_dtype`."""
    config = {
        **export.config,
        "vocab_size": export.rows,
        **tokens,
        "use_cache": True,
        "dtype": dtype_name(dtype),
        "torch_dtype": dtype_name(dtype),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
