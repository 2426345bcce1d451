"""Plan the export of a checkpoint, and write its files beside the weights: config, tokenizer, generation, card.

export = plan_export(Path("CKPT_DIR/iter_0000500"), vocab_size="auto")
write_companions(export, torch.bfloat16, CardFacts("ORG/NAME"), Path("HF_DIR"))
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import HfConfig
from checkpoint_convert.huggingface.generation import config_ids, generation_settings, write_generation_config
from checkpoint_convert.huggingface.lineage import ancestors
from checkpoint_convert.huggingface.model_card import CardFacts, model_card
from checkpoint_convert.huggingface.tokenizer_files import TokenizerExport, checkpoint_tokenizer, write_tokenizer_files
from checkpoint_convert.mapping.checks import rows_to_write
from checkpoint_convert.mapping.rules import Table
from checkpoint_convert.output.loss_curves import draw_losses
from checkpoint_convert.output.report import warn
from checkpoint_convert.tensors.tensor import dtype_name
from megatron_train.checkpoint.folder import MODEL_CONFIG, TOKENIZER_DIR
from megatron_train.config.model_config import ModelConfig


@dataclass(frozen=True)
class Export:
    """The plan of an export to a Hugging Face folder, which is complete before the first tensor is read."""

    checkpoint: Path
    model: ModelConfig
    config: HfConfig
    """config.json without token ids, dtype and vocab_size."""
    table: Table
    tokenizer: TokenizerExport | None
    rows: int
    """Number of vocabulary rows to write."""

    def describe_rows(self) -> str:
        """Return the numbers of vocabulary rows as text: `32,007 rows written of 32,128 (32,007 in use)`."""
        return f"{self.rows:,} rows written of {self.model.padded_vocab:,} ({self.model.vocab_size:,} in use)"


def plan_export(checkpoint: Path, vocab_size: str) -> Export:
    """Plan the export of the checkpoint folder `checkpoint`. `vocab_size` is the value of --vocab_size.

    A checkpoint without tokenizer is exported without one, with a warning. Raises ConvertError or TokenizerError.
    """
    model = ModelConfig.load(checkpoint / MODEL_CONFIG)
    family = FAMILIES[model.family]
    config, table = family.hf_config(model), family.table(model)
    folder = checkpoint / TOKENIZER_DIR
    tokenizer = checkpoint_tokenizer(folder) if folder.is_dir() else None
    if tokenizer is None:
        warn(f"{checkpoint} has no {TOKENIZER_DIR}/ folder: the export gets weights and config, but no tokenizer")
    else:
        tokenizer.special_ids()  # raises before anything is written
    rows = rows_to_write(model, tokenizer.tokenizer if tokenizer else None, vocab_size)
    return Export(checkpoint, model, config, table, tokenizer, rows)


def write_companions(export: Export, dtype: torch.dtype, facts: CardFacts, folder: Path) -> None:
    """Write the files of the export other than the weights into `folder`: configs, tokenizer, model card, loss curves.

    `dtype` is that of the weights, and `facts` go into the model card.
    """
    runs = [checkpoint.parent for checkpoint in reversed(ancestors(export.checkpoint))]
    facts = replace(facts, has_loss_plot=draw_losses(runs, folder))
    own = export.tokenizer
    generation = generation_settings(export.checkpoint, {})
    if own and own.source:
        generation = generation or own.source.generation
    if own is None:
        write_config(export, config_ids(None, generation), dtype, folder)
        write_generation_config(None, generation, folder)
        card = model_card(facts, export.model, export.checkpoint, None, None)
    else:
        ids, keep = own.special_ids(), own.is_source
        stated = own.source.config_ids if own.source and keep else generation
        write_config(export, config_ids(ids, stated, keep), dtype, folder)
        write_generation_config(ids, generation, folder, keep)
        write_tokenizer_files(own, folder, export.model.max_position_embeddings)
        card = model_card(facts, export.model, export.checkpoint, own.tokenizer, own.chat_format)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_config(export: Export, tokens: HfConfig, dtype: torch.dtype, folder: Path) -> None:
    """Write config.json. `tokens` has its token ids, such as eos_token_id.

    The file has the dtype twice: transformers 5 reads `dtype`, older versions read `torch_dtype`.
    """
    config = {
        **export.config,
        "vocab_size": export.rows,
        **tokens,
        "use_cache": True,
        "dtype": dtype_name(dtype),
        "torch_dtype": dtype_name(dtype),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
