"""Does a Hugging Face folder hold the same model as a checkpoint? Weights bit by bit, logits where they fit, chat.

    outcome = verify(Path("HF_DIR"), Path("CKPT_DIR"));  print("\\n".join(outcome.lines()));  outcome.is_equal

Weights: each tensor of the checkpoint goes through the family's table and is compared with the folder's, as integers.
Rows that only one side has (new tokens, padding) are left out. Where the sides differ in dtype, the wider one is
rounded as the conversion does it. Logits: transformers' model of the folder against megatron-core's of the
checkpoint, both in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from checkpoint_convert.chat_check import ChatOutcome, check_chat
from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import model_config_of, read_hf_config
from checkpoint_convert.hf_io import HfWeights
from checkpoint_convert.logits import LogitDifference, compare_logits
from checkpoint_convert.mapping import Table
from checkpoint_convert.megatron_io import CheckpointReader
from checkpoint_convert.plan import check_checkpoint, check_names
from checkpoint_convert.report import named, progress
from checkpoint_convert.tensors import (
    ConvertError,
    Parts,
    TensorSource,
    main_dtype,
    one_torch_thread,
    same_bits,
    shape_of,
)
from checkpoint_convert.vocabulary import shrink
from megatron_train.model_config import ModelConfig
from megatron_train.state.checkpoint_folder import MODEL_CONFIG, find_checkpoint

ARCHITECTURE_APART = frozenset({"vocab_size", "padded_vocab_size", "make_vocab_size_divisible_by", "source_vocab_size"})


@dataclass
class Outcome:
    """What was compared and what differs."""

    num_tensors: int = 0
    rows: int = 0
    different: list[str] = field(default_factory=list)
    is_rounded: bool = False
    """The sides have different dtypes."""
    logits: LogitDifference | None = None
    no_logits: str = ""
    """Why logits were not compared."""
    chat: ChatOutcome | None = None
    """Chat template and stop tokens, where both sides have a tokenizer."""

    @property
    def is_equal(self) -> bool:
        is_chat_equal = self.chat is None or not self.chat.problem
        return not self.different and (self.logits is None or self.logits.is_close) and is_chat_equal

    def lines(self) -> list[str]:
        """The result, for people."""
        if self.different:
            found = [f"verify: {len(self.different)} of {self.num_tensors} tensors DIFFER: {named(self.different)}"]
        else:
            found = [
                f"verify: all {self.num_tensors} tensors are bitwise equal ({self.rows:,} vocabulary rows compared)"
            ]
        found.append(
            f"verify: {self.logits.describe()}" if self.logits else f"verify: logits not compared: {self.no_logits}"
        )
        if self.chat:
            found.append(f"verify: {self.chat.describe()}")
        return found


def verify(hf_dir: Path, checkpoint_dir: Path, iteration: int | None = None) -> Outcome:
    """Compares both sides. Raises ConvertError when they are not the same architecture or a file is missing."""
    outcome = verify_weights(hf_dir, checkpoint_dir, iteration)
    folder = find_checkpoint(checkpoint_dir, iteration)
    outcome.chat = check_chat(hf_dir, folder)
    if outcome.different:
        outcome.no_logits = "the weights differ already"
    else:
        model = ModelConfig.load(folder / MODEL_CONFIG)
        outcome.logits, outcome.no_logits = compare_logits(hf_dir, folder, model, outcome.is_rounded)
    return outcome


def verify_weights(hf_dir: Path, checkpoint_dir: Path, iteration: int | None = None) -> Outcome:
    """The weights alone, one tensor at a time. Raises as `verify` does."""
    folder = find_checkpoint(checkpoint_dir, iteration)
    model = ModelConfig.load(folder / MODEL_CONFIG)
    check_architecture(
        model, model_config_of(read_hf_config(hf_dir / "config.json"), FAMILIES, hf_dir / "config.json"), hf_dir
    )
    source, reader = HfWeights(hf_dir), CheckpointReader(folder)
    outcome = compare_weights(source, FAMILIES[model.family].table(model), reader, model, hf_dir)
    outcome.is_rounded = main_dtype(source.infos.values()) != main_dtype(reader.infos.values())
    return outcome


def check_architecture(ours: ModelConfig, theirs: ModelConfig, hf_dir: Path) -> None:
    """Raises ConvertError naming every field of the architecture in which the two configs differ."""
    names = [
        name for name in vars(ours) if name not in ARCHITECTURE_APART and getattr(ours, name) != getattr(theirs, name)
    ]
    if names:
        differences = ", ".join(f"{name} ({getattr(ours, name)} here, {getattr(theirs, name)} there)" for name in names)
        raise ConvertError(f"{hf_dir / 'config.json'}: another architecture than the checkpoint's: {differences}")


def compare_weights(
    source: TensorSource, table: Table, reader: CheckpointReader, model: ModelConfig, origin: Path
) -> Outcome:
    """Every tensor of a checkpoint against another format's, the rows that both have."""
    check_names(table, source.infos, origin, [table.tied_copy] if model.share_embeddings_and_output_weights else [])
    check_checkpoint(table, reader, model)
    outcome = Outcome()
    with progress(reader.infos, "verify") as bar, one_torch_thread():
        for rule in table.rules:
            tensor = reader.read(rule.megatron)
            if rule.is_vocabulary:
                outcome.rows = min(source.infos[rule.other].shape[0], model.vocab_size)
                tensor = shrink(tensor, outcome.rows)
            for name, parts in zip(rule.others, rule.to_other(tensor, model), strict=True):
                theirs = source.read(name)
                outcome.num_tensors += 1
                if not equal_after_rounding(parts, shrink(theirs, outcome.rows) if rule.is_vocabulary else theirs):
                    outcome.different.append(name)
            bar.update(reader.infos[rule.megatron].num_bytes)
    return outcome


def equal_after_rounding(parts: Parts, theirs: torch.Tensor) -> bool:
    """Bitwise, once one side has the other's dtype; narrower ones first."""
    if shape_of(parts) != theirs.shape:
        return False
    pairs = list(zip(parts, theirs.split([len(part) for part in parts]), strict=True))
    dtypes = sorted({parts[0].dtype, theirs.dtype}, key=lambda dtype: dtype.itemsize)
    return any(all(same_bits(ours.to(dtype), their.to(dtype)) for ours, their in pairs) for dtype in dtypes)
