"""Verify that a Hugging Face folder and a checkpoint hold the same model: weights bit by bit, logits, and chat.

    outcome = verify(Path("HF_DIR"), Path("CKPT_DIR"));  print("\\n".join(outcome.lines()));  outcome.is_equal

Weights: the family's table converts each tensor of the checkpoint, and its bits are compared with the folder's tensor.
Rows that only one side has (new tokens, padding) are ignored. If one side is rounded, the other is rounded too, and the
outcome counts the tensor. Logits: transformers' model of the folder and megatron-core's of the checkpoint, in fp32.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import differing_fields, model_config_of, read_hf_config
from checkpoint_convert.huggingface.generation import generation_settings
from checkpoint_convert.huggingface.weights import HfWeights
from checkpoint_convert.mapping.checks import (
    check_checkpoint,
    check_names,
    check_shapes,
    table_of_file,
    tied_copy_to_drop,
)
from checkpoint_convert.mapping.rules import Table
from checkpoint_convert.mapping.vocabulary import BLOCK_ROWS, shrink
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
from checkpoint_convert.output.report import named, progress
from checkpoint_convert.tensors.tensor import (
    ConvertError,
    Parts,
    TensorSource,
    one_torch_thread,
    overflows,
    same_bits,
    shape_of,
)
from checkpoint_convert.verify.chat import ChatOutcome, check_chat
from checkpoint_convert.verify.logits import LogitDifference, compare_logits
from megatron_train.checkpoint.folder import MODEL_CONFIG, find_checkpoint
from megatron_train.config.model_config import ModelConfig


@dataclass
class Outcome:
    """The result of comparing a folder with a checkpoint: tensors, logits and chat, and their differences."""

    num_tensors: int = 0
    rows: int = 0
    """Number of vocabulary rows compared."""
    rows_left_out: int = 0
    """Number of rows that the checkpoint has from its source, but that the other side's config lacks."""
    different: list[str] = field(default_factory=list)
    """Names of the tensors that differ."""
    num_rounded: int = 0
    """Number of tensors that are equal only after the side with the wider dtype is rounded."""
    logits: LogitDifference | None = None
    no_logits: str = ""
    """The reason why logits were not compared."""
    chat: ChatOutcome | None = None
    """Result for chat template and stop tokens. None when they were not compared."""

    @property
    def is_equal(self) -> bool:
        is_chat_equal = self.chat is None or not self.chat.problem
        return not self.different and (self.logits is None or self.logits.is_close) and is_chat_equal

    def lines(self) -> list[str]:
        """Return the result as lines of text to print."""
        rounded = f"equal, {self.num_rounded} of them after rounding" if self.num_rounded else "bitwise equal"
        found = [f"verify: all {self.num_tensors} tensors are {rounded} ({self.rows:,} vocabulary rows compared)"]
        if self.rows_left_out:
            found[0] += f", but {self.rows_left_out:,} rows of the checkpoint are not in the folder"
        if self.different:
            found = [f"verify: {len(self.different)} of {self.num_tensors} tensors DIFFER: {named(self.different)}"]
        found.append(
            f"verify: {self.logits.describe()}" if self.logits else f"verify: logits not compared: {self.no_logits}"
        )
        if self.chat:
            found.append(f"verify: {self.chat.describe()}")
        return found


def verify(hf_dir: Path, checkpoint_dir: Path, iteration: int | None = None, with_chat: bool = True) -> Outcome:
    """Compare a Hugging Face folder with a checkpoint: weights, logits and, with `with_chat`, tokenization of a chat.

    `with_chat` is False after an import, because the source's tokenizer lacks the added tokens. Raises ConvertError
    when the architectures differ or a file is missing.
    """
    read_hf_config(hf_dir / "config.json")  # raises when the first folder is no Hugging Face folder
    generation_settings(hf_dir, {})  # raises with the file's name, which transformers' error lacks
    outcome = verify_weights(hf_dir, checkpoint_dir, iteration)
    folder = find_checkpoint(checkpoint_dir, iteration)
    outcome.chat = check_chat(hf_dir, folder) if with_chat else None
    if outcome.different:
        outcome.no_logits = "the weights differ already"
    else:
        model = ModelConfig.load(folder / MODEL_CONFIG)
        is_rounded = outcome.num_rounded > 0
        outcome.logits, outcome.no_logits = compare_logits(hf_dir, folder, model, outcome.rows, is_rounded)
    return outcome


def verify_weights(hf_dir: Path, checkpoint_dir: Path, iteration: int | None = None) -> Outcome:
    """Compare only the weights of a Hugging Face folder and a checkpoint, one tensor at a time.

    Raises ConvertError when the architectures differ or a file is missing.
    """
    folder = find_checkpoint(checkpoint_dir, iteration)
    model = ModelConfig.load(folder / MODEL_CONFIG)
    theirs = model_config_of(read_hf_config(hf_dir / "config.json"), FAMILIES, hf_dir / "config.json")
    check_architecture(model, theirs, hf_dir)
    source, reader = HfWeights(hf_dir), CheckpointReader(folder)
    table = table_of_file(FAMILIES[model.family].table(model), source.infos, model)
    return compare_weights(source, table, reader, model, hf_dir, theirs.vocab_size)


def check_architecture(ours: ModelConfig, theirs: ModelConfig, hf_dir: Path) -> None:
    """Raise ConvertError naming every field in which the two architectures differ."""
    names = differing_fields(ours, theirs)
    if names:
        differences = ", ".join(f"{name} ({getattr(theirs, name)}, checkpoint {getattr(ours, name)})" for name in names)
        raise ConvertError(f"{hf_dir / 'config.json'}: its architecture differs from the checkpoint's: {differences}")


def compare_weights(
    source: TensorSource,
    table: Table,
    reader: CheckpointReader,
    model: ModelConfig,
    origin: Path,
    source_rows: int | None = None,
) -> Outcome:
    """Compare every tensor of a checkpoint (`reader`) with its counterpart in another format (`source`).

    Only the vocabulary rows that both have are compared. `source_rows` is the vocabulary size in the other side's
    config. Without it, the other side must have at least the rows that the checkpoint was imported with. Raises
    ConvertError when names or shapes of the other side do not fit.
    """
    check_names(table, source.infos, origin, tied_copy_to_drop(source, model, table, origin))
    check_checkpoint(table, reader.infos, model, reader.folder)
    embedding = next(rule.other for rule in table.rules if rule.is_vocabulary)
    least = min(model.vocab_size, model.source_vocab_size or model.vocab_size)
    source_rows = source_rows or max(least, *source.infos[embedding].shape[:1])
    check_shapes(table, source.infos, dataclasses.replace(model, vocab_size=source_rows), origin)
    outcome = Outcome(rows=min(source_rows, model.vocab_size), rows_left_out=max(0, least - source_rows))
    with progress(reader.infos, "verify") as bar, one_torch_thread():
        for rule in table.rules:
            tensor = reader.read(rule.megatron)
            if rule.is_vocabulary:
                tensor = shrink(tensor, outcome.rows)
            for name, parts in zip(rule.others, rule.to_other(tensor, model), strict=True):
                theirs = source.read(name)
                theirs = shrink(theirs, outcome.rows) if rule.is_vocabulary else theirs
                outcome.num_tensors += 1
                if not equal_after_rounding(parts, theirs):
                    outcome.different.append(name)
                elif is_rounded(parts, theirs):
                    outcome.num_rounded += 1
            bar.update(reader.infos[rule.megatron].num_bytes)
    return outcome


def equal_after_rounding(parts: Parts, theirs: torch.Tensor) -> bool:
    """Return whether two tensors are bitwise equal, if need be after one is rounded to the other's dtype.

    `parts` form the first tensor when they are concatenated along axis 0. A number that overflows makes them differ.
    """
    if shape_of(parts) != theirs.shape:
        return False
    pairs = list(zip(parts, theirs.split([len(part) for part in parts]), strict=True))
    dtypes = sorted({parts[0].dtype, theirs.dtype}, key=lambda dtype: dtype.itemsize)
    return any(all(_equal_in(ours, their, dtype) for ours, their in pairs) for dtype in dtypes)


def _equal_in(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> bool:
    first, second = ours.to(dtype), theirs.to(dtype)
    return same_bits(first, second) and not overflows(ours, first) and not overflows(theirs, second)


def is_rounded(parts: Parts, theirs: torch.Tensor) -> bool:
    """Return whether two tensors that match after rounding differ in full precision.

    `parts` form the first tensor when they are concatenated along axis 0.
    """
    if parts[0].dtype == theirs.dtype:
        return False
    wide = torch.promote_types(parts[0].dtype, theirs.dtype)
    for ours, their in zip(parts, theirs.split([len(part) for part in parts]), strict=True):
        for first, second in zip(
            ours.split(BLOCK_ROWS), their.split(BLOCK_ROWS), strict=True
        ):  # most comparisons end at the first block
            if not same_bits(first.to(wide), second.to(wide)):
                return True
    return False
