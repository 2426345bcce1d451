"""Check names, shapes and vocabulary rows before a conversion reads or writes the first tensor."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from checkpoint_convert.mapping.options import ImportOptions
from checkpoint_convert.mapping.rules import Table
from checkpoint_convert.mapping.vocabulary import RowPlan, shrink
from checkpoint_convert.output.report import MAX_NAMED, named, warn
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo, TensorSource, dtype_name, same_bits, shape_of
from megatron_train.checkpoint.folder import MODEL_CONFIG
from megatron_train.config.model_config import ModelConfig, pad_vocab_size
from pretokenizer.tokenizer.base import Tokenizer


def check_shapes(table: Table, infos: Mapping[str, TensorInfo], model: ModelConfig, origin: Path) -> None:
    """Raise ConvertError naming the first source tensor whose shape contradicts the config or whose dtype is no float.

    `infos` describes the tensors of the source, and `origin` is the folder that messages name.
    """
    expected = megatron_shapes(model)
    for rule in table.rules:
        shape = expected[_without_layer(rule.megatron)]
        wanted = [shape_of(parts) for parts in rule.to_other(torch.empty(shape, device="meta"), model)]
        for name, shape in zip(rule.others, wanted, strict=True):
            if infos[name].shape != shape:
                raise ConvertError(f"{origin}: {name} is {list(infos[name].shape)}, but its config needs {list(shape)}")
            if not infos[name].dtype.is_floating_point:  # integers need scales, which are separate tensors
                found = dtype_name(infos[name].dtype)
                raise ConvertError(
                    f"{origin}: {name} has dtype {found}: quantized weights cannot be converted; use the original ones"
                )


def megatron_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors that a megatron-core model can have, by name without layer numbers.

    The embedding and the output layer have `vocab_size` rows.
    """
    hidden, ffn, layer = model.hidden_size, model.ffn_hidden_size, "decoder.layers"
    queries = model.num_attention_heads * model.head_dim
    vocabulary, norm = (model.vocab_size, hidden), (hidden,)
    weights = {
        f"{layer}.self_attention.linear_qkv": (queries + 2 * model.query_groups * model.head_dim, hidden),
        f"{layer}.self_attention.linear_proj": (hidden, queries),
        f"{layer}.mlp.linear_fc1": (ffn * (2 if model.gated_linear_unit else 1), hidden),
        f"{layer}.mlp.linear_fc2": (hidden, ffn),
    }
    head = (model.head_dim,)
    norms = (f"{layer}.input_layernorm", f"{layer}.pre_mlp_layernorm", "decoder.final_layernorm")
    return {
        "embedding.word_embeddings.weight": vocabulary,
        "output_layer.weight": vocabulary,
        **{f"{name}.weight": shape for name, shape in weights.items()},
        **{f"{name}.bias": shape[:1] for name, shape in weights.items()},
        **{f"{name}.{part}": norm for name in norms for part in ("weight", "bias")},
        **{f"{layer}.self_attention.{word}_layernorm.weight": head for word in ("q", "k")},
    }


def table_of_file(table: Table, present: Mapping[str, TensorInfo], model: ModelConfig) -> Table:
    """Return `table` with the tensor names that a source really has (`present`), where the family knows other names.

    When the source of a tied model has an output layer but no embedding, the output layer is read as the embedding, as
    in transformers.
    """
    spelled = {ours: theirs for ours, theirs in table.aliases.items() if ours not in present and theirs in present}
    rules = tuple(dataclasses.replace(rule, other=spelled.get(rule.other, rule.other)) for rule in table.rules)
    table = dataclasses.replace(table, rules=rules, tied_copy=spelled.get(table.tied_copy, table.tied_copy))
    embedding = next(rule for rule in table.rules if rule.is_vocabulary)
    if not model.share_embeddings_and_output_weights or embedding.other in present or table.tied_copy not in present:
        return table
    stand_in = dataclasses.replace(embedding, other=table.tied_copy)
    rules = tuple(stand_in if rule is embedding else rule for rule in table.rules)
    return dataclasses.replace(table, rules=rules, tied_copy="")


def tied_copy_to_drop(source: TensorSource, model: ModelConfig, table: Table, origin: Path) -> list[str]:
    """Return the name of a tied model's redundant output layer in a list, which an import leaves out.

    Return [] if the model is not tied or its files lack the output layer. Raises ConvertError when that tensor is not a
    copy of the embedding.
    """
    name = table.tied_copy
    if not model.share_embeddings_and_output_weights or name not in source.infos:
        return []
    embedding = next(rule.other for rule in table.rules if rule.is_vocabulary)
    if embedding in source.infos and not same_bits(source.read(name), source.read(embedding)):
        raise ConvertError(f"{origin}: {name} differs from {embedding}, but the model is tied (tie_word_embeddings)")
    return [name]


def check_names(table: Table, present: Mapping[str, TensorInfo], origin: Path, used: Sequence[str]) -> list[str]:
    """Check that a source has every tensor of the table and no unknown one. Return the names of its buffers.

    `present` describes the source's tensors by name. Buffers, such as masks and rotary tables, are not weights. `used`
    lists further names that the source may have. Raises ConvertError naming missing and unknown tensors.
    """
    expected = {name for rule in table.rules for name in rule.others}
    missing = sorted(expected - present.keys())
    left = sorted(present.keys() - expected - set(used))
    buffers = [name for name in left if name.endswith(table.buffers)] if table.buffers else []
    unknown = [name for name in left if name not in buffers]
    if missing:
        found = f"{origin}: lacks {len(missing)} tensors that its config needs: {named(missing)}"
        raise ConvertError(found + _likely(missing, unknown))
    if unknown:
        raise ConvertError(
            f"{origin}: has {len(unknown)} tensors that do not belong to a {table.name}: {named(unknown)}"
        )
    return buffers


def _likely(missing: Sequence[str], unknown: Sequence[str]) -> str:
    """Return the end of an error message that suggests an unknown tensor for a missing one with a similar name."""
    for name in missing[:MAX_NAMED]:
        if close := difflib.get_close_matches(name, unknown, 1, 0.6):
            return f"; {name} may be called {close[0]} there, which does not belong to this model"
    return f"; it has {len(unknown)} unknown tensors, such as {unknown[0]}" if unknown else ""


def check_checkpoint(table: Table, infos: Mapping[str, TensorInfo], model: ModelConfig, folder: Path) -> None:
    """Raise ConvertError naming missing or unknown tensors of a checkpoint, or a tensor of the wrong shape."""
    expected, shapes = {rule.megatron for rule in table.rules}, megatron_shapes(model)
    missing, unknown = sorted(expected - infos.keys()), sorted(infos.keys() - expected)
    if missing:
        raise ConvertError(f"{folder}: lacks {len(missing)} tensors that a {table.name} needs: {named(missing)}")
    if unknown:
        raise ConvertError(f"{folder}: has tensors that do not belong to a {table.name}: {named(unknown)}")
    for rule in table.rules:
        shape = shapes[_without_layer(rule.megatron)]
        shape = (model.padded_vocab, *shape[1:]) if rule.is_vocabulary else shape
        if infos[rule.megatron].shape != shape:
            found = list(infos[rule.megatron].shape)
            raise ConvertError(f"{folder}: {rule.megatron} is {found}, but {MODEL_CONFIG} needs {list(shape)}")


def plan_rows(model: ModelConfig, tokenizer: Tokenizer | None, options: ImportOptions) -> RowPlan:
    """Return the plan of an imported checkpoint's vocabulary rows.

    The number of rows in use is the larger of the source's rows and the tokenizer's length. It is padded to a multiple
    of `make_vocab_size_divisible_by`.
    """
    used = max(model.vocab_size, tokenizer.vocab_size if tokenizer else 0)
    padded = pad_vocab_size(used, options.make_vocab_size_divisible_by)
    return RowPlan(model.vocab_size, used, padded, options.new_token_init, model.init_method_std, options.seed)


def rows_to_write(model: ModelConfig, tokenizer: Tokenizer | None, choice: str) -> int:
    """Return the number of vocabulary rows that an export writes for `choice`, a value of --vocab_size.

    Warn when the tokenizer has more tokens than the written rows. Raises ConvertError when the checkpoint has fewer
    rows than `choice` asks for or than the tokenizer has tokens, and for `tokenizer` without a tokenizer.
    """
    length = tokenizer.vocab_size if tokenizer else 0
    if length > model.vocab_size:
        raise ConvertError(
            f"the tokenizer has {length:,} tokens but the checkpoint only {model.vocab_size:,} rows: they do not match"
        )
    if choice == "tokenizer" and not length:
        raise ConvertError("--vocab_size tokenizer: the checkpoint has no tokenizer folder")
    source_rows = model.source_vocab_size or model.vocab_size
    choices = {"auto": max(source_rows, length), "source": source_rows, "tokenizer": length}
    rows = choices[choice] if choice in choices else int(choice)
    if not 1 <= rows <= model.padded_vocab:
        raise ConvertError(f"--vocab_size {rows}: the checkpoint has {model.padded_vocab:,} rows")
    if rows < length:
        warn(f"{rows:,} rows are written, but the tokenizer has {length:,} tokens: the last ones have no embedding")
    return rows


def target_infos(
    table: Table, infos: Mapping[str, TensorInfo], model: ModelConfig, rows: int, dtype: torch.dtype
) -> dict[str, TensorInfo]:
    """Return shape and dtype of every tensor that an export writes, by name, computed without reading the weights.

    `infos` describes the checkpoint's tensors. The export writes `rows` vocabulary rows, and all tensors in `dtype`.
    """
    found: dict[str, TensorInfo] = {}
    for rule in table.rules:
        tensor = torch.empty(infos[rule.megatron].shape, device="meta")
        tensor = shrink(tensor, rows) if rule.is_vocabulary else tensor
        for name, parts in zip(rule.others, rule.to_other(tensor, model), strict=True):
            found[name] = TensorInfo(shape_of(parts), dtype)
    return found


def _without_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".", name)
