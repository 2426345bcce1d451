"""Write a checkpoint as Megatron-LLM's own files, for given tensor- and pipeline-parallel sizes.

    to_megatron_llm(Path("CKPT_DIR"), Path("OUT"), RankOptions(tp=8, pp=4))   # OUT/release/mp_rank_00_000/...

Memory holds one tensor instead of one rank: each rank's parts first go to a scratch file, which is then mapped and
saved with torch.save. Megatron-LLM expects vocabulary rows padded to a multiple of 128 x tp. Padding repeats the last
row, as its own tools do.
"""

from __future__ import annotations

import re
import shutil
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from checkpoint_convert.mapping.checks import check_checkpoint
from checkpoint_convert.mapping.rules import Rule, Table
from checkpoint_convert.mapping.vocabulary import RowPlan, grow, shrink
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
from checkpoint_convert.other_formats.megatron_llm_arguments import (
    ROWS_DIVISIBLE_BY,
    saved_arguments,
    tokenizer_arguments,
)
from checkpoint_convert.other_formats.megatron_llm_table import EMBEDDING, HEAD, is_up_gate, partition_axis
from checkpoint_convert.other_formats.megatron_llm_table import table as megatron_llm_table
from checkpoint_convert.output.report import Report, progress, warn_of_not_finite
from checkpoint_convert.output.staging import check_target
from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo, joined, main_dtype, raw_bytes
from megatron_train.checkpoint.folder import MODEL_CONFIG, TOKENIZER_DIR, TRACKER, check_folder, find_checkpoint
from megatron_train.config.model_config import ModelConfig, pad_vocab_size
from megatron_train.config.parallel_layout import ParallelLayout
from pretokenizer.files.checksums import write_sha256sums
from pretokenizer.files.publish import staged_folder


@dataclass(frozen=True)
class RankOptions:
    """Settings of to-megatron-llm: tensor- and pipeline-parallel sizes, dtype, and the iteration to convert."""

    tp: int = 1
    pp: int = 1
    dtype: torch.dtype | None = None
    """Dtype of the written weights. None: the dtype of most weights in the checkpoint."""
    iteration: int | None = None

    @property
    def layout(self) -> ParallelLayout:
        return ParallelLayout(self.tp * self.pp, self.tp, self.pp)


@dataclass(frozen=True)
class _Source:
    """The checkpoint to convert, and the rules that turn its tensors into Megatron-LLM's."""

    reader: CheckpointReader
    model: ModelConfig
    table: Table
    rows: int
    """Number of vocabulary rows to write, padding included."""


@dataclass
class RankFile:
    """Collects the tensors of one rank and saves them as model_optim_rng.pt in the rank's folder."""

    folder: Path
    places: dict[str, tuple[int, TensorInfo]] = field(default_factory=dict)
    """Tensor name -> (first byte in the scratch file, shape and dtype)."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self._scratch = self.folder / ".tensors"
        self._file = self._scratch.open("wb")

    def write(self, name: str, info: TensorInfo, blocks: Iterable[Tensor]) -> None:
        """Append one tensor to the rank's scratch file, from which `finish` reads it."""
        self.places[name] = (self._file.tell(), info)
        for block in blocks:
            self._file.write(raw_bytes(block))
        self._file.write(b"\0" * (-self._file.tell() % 64))

    def finish(self, arguments: Namespace) -> None:
        """Save all tensors of the rank in Megatron-LLM's form, and remove the scratch file."""
        self._file.close()
        mapped = MappedFile(self._scratch)
        tensors = {
            name: mapped.tensor(start, info.num_bytes, info.dtype).view(info.shape)
            for name, (start, info) in self.places.items()
        }
        model = {"language_model": _nested(tensors)}
        if "word_embeddings_for_head" in tensors:
            model["word_embeddings_for_head"] = {"weight": tensors["word_embeddings_for_head"]}
        state = {"args": arguments, "checkpoint_version": 3.0, "iteration": "release", "model": model}
        torch.save(state, self.folder / "model_optim_rng.pt")
        self._scratch.unlink()


def to_megatron_llm(checkpoint_dir: Path, out_dir: Path, options: RankOptions) -> Report:
    """Convert a checkpoint to Megatron-LLM's files in `out_dir`/release, and return the report to print.

    `out_dir` also gets the tracker file that names release, SHA256SUMS, and tokenizer.model if there is one. Raises
    ConvertError or CheckpointError.
    """
    folder = find_checkpoint(checkpoint_dir, options.iteration)
    check_target(out_dir)
    check_folder(folder)
    source = _open(folder, options)
    dtype = options.dtype or main_dtype(source.reader.infos.values())
    tokens = tokenizer_arguments(folder / TOKENIZER_DIR)
    arguments = saved_arguments(source.model, source.rows, options.layout, tokens)
    vocabulary = f"{source.model.vocab_size:,} rows in use, padded to {source.rows:,}"
    report = Report(out_dir, dtype=dtype, vocabulary=vocabulary)
    with staged_folder(out_dir) as staging:
        with progress(source.reader.infos, f"writing {out_dir.name}") as bar:
            for stage in range(options.pp):
                names = [rank_name(rank, stage, options.pp) for rank in range(options.tp)]
                ranks = [RankFile(staging / "release" / name) for name in names]
                write_stage(source, stage_tensors(source, stage, options.pp), ranks, report, bar)
                for rank in ranks:
                    rank.finish(arguments)
        (staging / TRACKER).write_text("release")
        if (folder / TOKENIZER_DIR / "tokenizer.model").is_file():
            shutil.copyfile(folder / TOKENIZER_DIR / "tokenizer.model", staging / "tokenizer.model")
        write_sha256sums(staging)
    warn_of_not_finite(report)
    return report


def _open(folder: Path, options: RankOptions) -> _Source:
    """Open the checkpoint and check that Megatron-LLM can hold it at these sizes. Raises ConvertError."""
    model = ModelConfig.load(folder / MODEL_CONFIG)
    table, reader = megatron_llm_table(model), CheckpointReader(folder)
    check_checkpoint(table, reader.infos, model, folder)
    check_layout(model, options.tp, options.pp)
    return _Source(reader, model, table, pad_vocab_size(model.vocab_size, ROWS_DIVISIBLE_BY * options.tp))


def write_stage(
    source: _Source, tensors: list[tuple[str, Rule]], ranks: list[RankFile], report: Report, bar: tqdm
) -> None:
    """Split every tensor of one pipeline stage over the stage's tensor-parallel ranks, and write the parts.

    `tensors` is the result of stage_tensors, and `ranks` are the files of the ranks in order.
    """
    for name, rule in tensors:
        (parts,) = rule.to_other(read_rows(source, rule), source.model)
        shares = split(rule.other, joined(parts), len(ranks), source.model.gated_linear_unit)
        for rank, share in zip(ranks, shares, strict=True):
            report.write(rank, name, [share], report.dtype)
        bar.update(source.reader.infos[rule.megatron].num_bytes)


def check_layout(model: ModelConfig, tp: int, pp: int) -> None:
    """Raise ConvertError when Megatron-LLM cannot hold the model at these tensor- and pipeline-parallel sizes.

    The message names sizes that do not divide and parts that Megatron-LLM's models lack.
    """
    divided = {
        "num_attention_heads": (model.num_attention_heads, tp),
        "key/value heads": (model.query_groups, tp),
        "ffn_hidden_size": (model.ffn_hidden_size, tp),
        "num_layers": (model.num_layers, pp),
    }
    wrong = [f"{name} {size} is not a multiple of {by}" for name, (size, by) in divided.items() if size % by]
    activation = "silu" if model.family == "llama" else "gelu"
    if model.activation != activation:
        wrong.append(f"Megatron-LLM's {model.family} model has {activation}, not {model.activation}")
    if model.family == "falcon" and not model.parallel_residual:
        wrong.append("Megatron-LLM's Falcon runs attention and MLP in parallel, this model runs them in sequence")
    if model.rope_scaling_type == "llama3":
        wrong.append("Megatron-LLM lacks Llama 3's rotary scaling")
    if wrong:
        raise ConvertError(f"no Megatron-LLM checkpoint at tp {tp}, pp {pp}: " + "; ".join(wrong))


def rank_name(tp_rank: int, pp_rank: int, pp: int) -> str:
    """Return the name of a rank's folder: `mp_rank_03`, or `mp_rank_03_001` with several pipeline stages."""
    return f"mp_rank_{tp_rank:02d}" + (f"_{pp_rank:03d}" if pp > 1 else "")


def stage_tensors(source: _Source, stage: int, pp: int) -> list[tuple[str, Rule]]:
    """Return (name within the stage, rule) of each tensor of one of the `pp` pipeline stages.

    A stage numbers its layers from 0. In a tied model, the last of several stages gets a copy of the embedding as its
    output layer.
    """
    layers = ParallelLayout(pp, pp=pp).layers_of_stage(source.model.num_layers, stage)
    found = []
    for rule in source.table.rules:
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", rule.other)
        if match and int(match[1]) in layers:
            found.append((f"encoder.layers.{int(match[1]) - layers.start}.{match[2]}", rule))
        elif not match and (stage == 0 if rule.other == EMBEDDING else stage == pp - 1):
            found.append((rule.other, rule))
    if pp > 1 and stage == pp - 1 and source.model.share_embeddings_and_output_weights:
        found.append(("word_embeddings_for_head", source.table.rules[0]))
    return found


def read_rows(source: _Source, rule: Rule) -> Tensor:
    """Return one tensor of the checkpoint. A vocabulary tensor is padded to `source.rows` rows."""
    tensor = source.reader.read(rule.megatron)
    if not rule.is_vocabulary:
        return tensor
    used = source.model.vocab_size
    return joined(grow(shrink(tensor, used), RowPlan(used, used, source.rows, "last_row"), rule.megatron))


def split(name: str, tensor: Tensor, tp: int, is_gated: bool) -> list[Tensor]:
    """Return the part of a tensor for each of the `tp` tensor-parallel ranks, in order.

    `name` is the tensor's name in Megatron-LLM. A tensor that is not split goes whole to each rank. From the fused rows
    of a gated MLP, each rank gets its share of up and its share of gate.
    """
    axis = partition_axis(name)
    if axis is None or tp == 1:
        return [tensor] * tp
    if is_up_gate(name, is_gated):
        up, gate = (half.chunk(tp) for half in tensor.chunk(2))
        return [torch.cat(pair) for pair in zip(up, gate, strict=True)]
    return list(tensor.chunk(tp, dim=axis))


def _nested(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the tensors in nested dicts under embedding, encoder and lm_head, as in a checkpoint of Megatron-LLM."""
    nested: dict[str, Any] = {}
    if EMBEDDING in tensors:
        nested["embedding"] = {"word_embeddings": {"weight": tensors[EMBEDDING]}}
    prefix = "encoder."
    nested["encoder"] = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    if HEAD in tensors:
        nested[HEAD] = tensors[HEAD]
    return nested
