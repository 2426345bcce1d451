"""What will be read and written, settled before the first byte: names, rows of the vocabulary, shapes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from checkpoint_convert.mapping.rules import Table
from checkpoint_convert.mapping.vocabulary import NewTokenInit, RowPlan, shrink
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
from checkpoint_convert.report import named, warn
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo, TensorSource, dtype_name, same_bits, shape_of
from megatron_train.checkpoint.folder import MODEL_CONFIG
from megatron_train.config.model_config import ModelConfig, pad_vocab_size
from pretokenizer.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class ImportOptions:
    """What from-hf and its siblings take."""

    extra_special_tokens: tuple[str, ...] = ()
    new_tokens: bool = True
    """With extra tokens on a SentencePiece vocabulary: append Megatron's <CLS> <SEP> <EOD> <MASK> <PAD> first."""
    dtype: torch.dtype | None = None
    """None = the source's."""
    make_vocab_size_divisible_by: int = 128
    new_token_init: NewTokenInit = "mean"
    seed: int = 1234


@dataclass(frozen=True)
class ExportOptions:
    """What to-hf takes."""

    dtype: torch.dtype | None = None
    max_shard_bytes: int = 2_000_000_000
    iteration: int | None = None
    vocab_size: str = "auto"
    """auto = max(rows of the source, length of the tokenizer); source; tokenizer; or a number."""
    check_sums: bool = True
    """Hold the checkpoint against its SHA256SUMS before anything is published."""
    hub_name: str | None = None
    """ORG/NAME under which the folder will be uploaded; its card names that."""


def check_shapes(table: Table, infos: Mapping[str, TensorInfo], model: ModelConfig, origin: Path) -> None:
    """Raises ConvertError naming the first tensor of another shape than the config calls for, or without fractions."""
    expected = megatron_shapes(model)
    for rule in table.rules:
        shape = expected[_without_layer(rule.megatron)]
        wanted = [shape_of(parts) for parts in rule.to_other(torch.empty(shape, device="meta"), model)]
        for name, shape in zip(rule.others, wanted, strict=True):
            if infos[name].shape != shape:
                raise ConvertError(f"{origin}: {name} is {list(infos[name].shape)}, its config calls for {list(shape)}")
            if not infos[name].dtype.is_floating_point:  # their scales would be left behind
                found = dtype_name(infos[name].dtype)
                raise ConvertError(f"{origin}: {name} is of {found}: quantized weights; take the original ones")


def megatron_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of megatron-core's model, layer numbers left out, `vocab_size` rows in the vocabulary."""
    hidden, ffn, layer = model.hidden_size, model.ffn_hidden_size, "decoder.layers"
    queries = model.num_attention_heads * model.head_dim
    vocabulary, norm = (model.vocab_size, hidden), (hidden,)
    weights = {
        f"{layer}.self_attention.linear_qkv": (queries + 2 * model.query_groups * model.head_dim, hidden),
        f"{layer}.self_attention.linear_proj": (hidden, queries),
        f"{layer}.mlp.linear_fc1": (ffn * (2 if model.gated_linear_unit else 1), hidden),
        f"{layer}.mlp.linear_fc2": (hidden, ffn),
    }
    norms = (f"{layer}.input_layernorm", f"{layer}.pre_mlp_layernorm", "decoder.final_layernorm")
    return {
        "embedding.word_embeddings.weight": vocabulary,
        "output_layer.weight": vocabulary,
        **{f"{name}.weight": shape for name, shape in weights.items()},
        **{f"{name}.bias": shape[:1] for name, shape in weights.items()},
        **{f"{name}.{part}": norm for name in norms for part in ("weight", "bias")},
    }


def table_of_file(table: Table, present: Mapping[str, TensorInfo], model: ModelConfig) -> Table:
    """`table`; a tied model's output layer stands for an embedding that the file lacks, as in transformers."""
    embedding = next(rule for rule in table.rules if rule.is_vocabulary)
    if not model.share_embeddings_and_output_weights or embedding.other in present or table.tied_copy not in present:
        return table
    stand_in = dataclasses.replace(embedding, other=table.tied_copy)
    rules = tuple(stand_in if rule is embedding else rule for rule in table.rules)
    return dataclasses.replace(table, rules=rules, tied_copy="")


def tied_copy_to_drop(source: TensorSource, model: ModelConfig, table: Table, origin: Path) -> list[str]:
    """A tied model's output layer, where the file holds it too. Raises ConvertError when it is no copy."""
    name = table.tied_copy
    if not model.share_embeddings_and_output_weights or name not in source.infos:
        return []
    embedding = next(rule.other for rule in table.rules if rule.is_vocabulary)
    if embedding in source.infos and not same_bits(source.read(name), source.read(embedding)):
        raise ConvertError(f"{origin}: {name} differs from {embedding}, but the model is tied (tie_word_embeddings)")
    return [name]


def check_names(table: Table, present: Mapping[str, TensorInfo], origin: Path, used: Sequence[str]) -> list[str]:
    """Names that are old files' buffers. Raises ConvertError naming tensors that are missing or have no place."""
    expected = {name for rule in table.rules for name in rule.others}
    missing = sorted(expected - present.keys())
    left = sorted(present.keys() - expected - set(used))
    buffers = [name for name in left if name.endswith(table.buffers)] if table.buffers else []
    unknown = [name for name in left if name not in buffers]
    if missing:
        raise ConvertError(f"{origin}: lacks {len(missing)} tensors that its config calls for: {named(missing)}")
    if unknown:
        raise ConvertError(
            f"{origin}: holds {len(unknown)} tensors that a {table.name} has no place for: {named(unknown)}"
        )
    return buffers


def check_checkpoint(table: Table, reader: CheckpointReader, model: ModelConfig) -> None:
    """Raises ConvertError naming tensors of a checkpoint that are missing, left over, or of another shape."""
    expected, shapes = {rule.megatron for rule in table.rules}, megatron_shapes(model)
    missing, unknown = sorted(expected - reader.infos.keys()), sorted(reader.infos.keys() - expected)
    if missing:
        raise ConvertError(f"{reader.folder}: lacks {len(missing)} tensors that a {table.name} needs: {named(missing)}")
    if unknown:
        raise ConvertError(f"{reader.folder}: holds tensors that a {table.name} has no place for: {named(unknown)}")
    for rule in table.rules:
        shape = shapes[_without_layer(rule.megatron)]
        shape = (model.padded_vocab, *shape[1:]) if rule.is_vocabulary else shape
        if reader.infos[rule.megatron].shape != shape:
            found = list(reader.infos[rule.megatron].shape)
            raise ConvertError(f"{reader.folder}: {rule.megatron} is {found}, {MODEL_CONFIG} calls for {list(shape)}")


def plan_rows(model: ModelConfig, tokenizer: Tokenizer | None, options: ImportOptions) -> RowPlan:
    """Rows in use = max(rows of the source, length of the tokenizer)."""
    used = max(model.vocab_size, tokenizer.vocab_size if tokenizer else 0)
    padded = pad_vocab_size(used, options.make_vocab_size_divisible_by)
    return RowPlan(model.vocab_size, used, padded, options.new_token_init, model.init_method_std, options.seed)


def rows_to_write(model: ModelConfig, tokenizer: Tokenizer | None, choice: str) -> int:
    """Rows of the exported embedding. Raises ConvertError when they are not there."""
    length = tokenizer.vocab_size if tokenizer else 0
    if length > model.vocab_size:
        raise ConvertError(
            f"the tokenizer has {length:,} tokens but the checkpoint only {model.vocab_size:,} rows: not its own"
        )
    if choice == "tokenizer" and not length:
        raise ConvertError("--vocab_size tokenizer: the checkpoint has no tokenizer folder")
    source_rows = model.source_vocab_size or model.vocab_size
    choices = {"auto": max(source_rows, length), "source": source_rows, "tokenizer": length}
    rows = choices[choice] if choice in choices else int(choice)
    if not 1 <= rows <= model.padded_vocab:
        raise ConvertError(f"--vocab_size {rows}: the checkpoint has {model.padded_vocab:,} rows")
    if rows < length:
        warn(f"{rows:,} rows are written but the tokenizer has {length:,} tokens: the last ones have no embedding")
    return rows


def target_infos(
    table: Table, infos: Mapping[str, TensorInfo], model: ModelConfig, rows: int, dtype: torch.dtype
) -> dict[str, TensorInfo]:
    """Shapes of everything to be written, from the same functions on the meta device."""
    found: dict[str, TensorInfo] = {}
    for rule in table.rules:
        tensor = torch.empty(infos[rule.megatron].shape, device="meta")
        tensor = shrink(tensor, rows) if rule.is_vocabulary else tensor
        for name, parts in zip(rule.others, rule.to_other(tensor, model), strict=True):
            found[name] = TensorInfo(shape_of(parts), dtype)
    return found


def _without_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".", name)
