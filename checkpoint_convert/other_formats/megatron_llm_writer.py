"""A checkpoint -> Megatron-LLM's own files for a given tensor- and pipeline-parallel size.

    to_megatron_llm(Path("CKPT_DIR"), Path("OUT"), tp=8, pp=4)      # OUT/release/mp_rank_00_000/model_optim_rng.pt ...

Stage by stage, one tensor at a time: the parts of each rank first go to a file of plain bytes, which is then mapped
and saved with torch.save, so that memory holds one tensor and not one rank. Rows are padded to a multiple of 128 x
tp, as Megatron-LLM expects them; padding repeats the last row, as its own tools do.
"""

from __future__ import annotations

import re
import shutil
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoint_convert.mapping.checks import check_checkpoint
from checkpoint_convert.mapping.rules import Rule, Table
from checkpoint_convert.mapping.vocabulary import RowPlan, grow, shrink
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
from checkpoint_convert.other_formats import megatron_llm
from checkpoint_convert.other_formats.megatron_llm import EMBEDDING, HEAD, is_up_gate, partition_axis
from checkpoint_convert.report import Report, progress, warn, warn_of_not_finite
from checkpoint_convert.staging import check_target, folder_staging
from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo, joined, main_dtype, raw_bytes
from megatron_train.checkpoint.folder import MODEL_CONFIG, TOKENIZER_DIR, TRACKER, check_folder, find_checkpoint
from megatron_train.config.model_config import ModelConfig, pad_vocab_size
from megatron_train.config.parallel_layout import ParallelLayout
from pretokenizer.files.checksums import write_sha256sums
from pretokenizer.files.publish import publish_folder
from pretokenizer.tokenizer.load import read_tokenizer_spec

ROWS_DIVISIBLE_BY = 128


@dataclass
class RankFile:
    """The tensors of one rank on their way into model_optim_rng.pt."""

    folder: Path
    places: dict[str, tuple[int, TensorInfo]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self._scratch = self.folder / ".tensors"
        self._file = self._scratch.open("wb")

    def write(self, name: str, info: TensorInfo, blocks: Iterable[Tensor]) -> None:
        self.places[name] = (self._file.tell(), info)
        for block in blocks:
            self._file.write(raw_bytes(block))
        self._file.write(b"\0" * (-self._file.tell() % 64))

    def finish(self, arguments: Namespace) -> None:
        """Saves all tensors as Megatron-LLM does and removes the scratch file."""
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


def to_megatron_llm(
    checkpoint_dir: Path,
    out_dir: Path,
    tp: int,
    pp: int,
    dtype: torch.dtype | None = None,
    iteration: int | None = None,
) -> Report:
    """Writes OUT/release and its tracker. Raises ConvertError or CheckpointError."""
    folder = find_checkpoint(checkpoint_dir, iteration)
    check_target(out_dir)
    check_folder(folder)
    model = ModelConfig.load(folder / MODEL_CONFIG)
    table, reader = megatron_llm.table(model), CheckpointReader(folder)
    check_checkpoint(table, reader, model)
    check_layout(model, tp, pp)
    rows = pad_vocab_size(model.vocab_size, ROWS_DIVISIBLE_BY * tp)
    dtype = dtype or main_dtype(reader.infos.values())
    arguments = saved_arguments(model, rows, tp, pp, tokenizer_arguments(folder / TOKENIZER_DIR))
    report = Report(out_dir, dtype=dtype, vocabulary=f"{model.vocab_size:,} rows in use, padded to {rows:,}")
    with folder_staging(out_dir) as staging:
        with progress(reader.infos, f"writing {out_dir.name}") as bar:
            for stage in range(pp):
                ranks = [RankFile(staging / "release" / rank_name(rank, stage, pp)) for rank in range(tp)]
                for name, rule in stage_tensors(table, model, stage, pp):
                    (parts,) = rule.to_other(read_rows(reader, rule, model, rows), model)
                    shares = split(rule.other, joined(parts), tp, model.gated_linear_unit)
                    for rank, share in zip(ranks, shares, strict=True):
                        report.write(rank, name, [share], dtype)
                    bar.update(reader.infos[rule.megatron].num_bytes)
                for rank in ranks:
                    rank.finish(arguments)
        (staging / TRACKER).write_text("release")
        if (folder / TOKENIZER_DIR / "tokenizer.model").is_file():
            shutil.copyfile(folder / TOKENIZER_DIR / "tokenizer.model", staging / "tokenizer.model")
        write_sha256sums(staging)
        publish_folder(staging, out_dir)
    warn_of_not_finite(report)
    return report


def check_layout(model: ModelConfig, tp: int, pp: int) -> None:
    """Raises ConvertError naming what the sizes do not divide, and what Megatron-LLM's models do not have."""
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
        wrong.append("Megatron-LLM's Falcon has attention and MLP in parallel, this one has them in sequence")
    if model.rope_scaling_type == "llama3":
        wrong.append("Megatron-LLM lacks Llama 3's rotary scaling")
    if wrong:
        raise ConvertError(f"no Megatron-LLM checkpoint at tp {tp}, pp {pp}: " + "; ".join(wrong))


def rank_name(tp_rank: int, pp_rank: int, pp: int) -> str:
    """`mp_rank_03`, or `mp_rank_03_001` with pipeline stages."""
    return f"mp_rank_{tp_rank:02d}" + (f"_{pp_rank:03d}" if pp > 1 else "")


def stage_tensors(table: Table, model: ModelConfig, stage: int, pp: int) -> list[tuple[str, Rule]]:
    """(name within the stage, rule) of what a pipeline stage holds; a tied head is a copy on the last one."""
    layers = ParallelLayout(pp, pp=pp).layers_of_stage(model.num_layers, stage)
    found = []
    for rule in table.rules:
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", rule.other)
        if match and int(match[1]) in layers:
            found.append((f"encoder.layers.{int(match[1]) - layers.start}.{match[2]}", rule))
        elif not match and (stage == 0 if rule.other == EMBEDDING else stage == pp - 1):
            found.append((rule.other, rule))
    if pp > 1 and stage == pp - 1 and model.share_embeddings_and_output_weights:
        found.append(("word_embeddings_for_head", table.rules[0]))
    return found


def read_rows(reader: CheckpointReader, rule: Rule, model: ModelConfig, rows: int) -> Tensor:
    """A tensor of the checkpoint; of the vocabulary, `rows` rows."""
    tensor = reader.read(rule.megatron)
    if not rule.is_vocabulary:
        return tensor
    used = shrink(tensor, model.vocab_size)
    return joined(grow(used, RowPlan(model.vocab_size, model.vocab_size, rows, "last_row"), rule.megatron))


def split(name: str, tensor: Tensor, tp: int, is_gated: bool) -> list[Tensor]:
    """The parts of the tensor-parallel ranks; of up and gate each rank gets its part of both."""
    axis = partition_axis(name)
    if axis is None or tp == 1:
        return [tensor] * tp
    if is_up_gate(name, is_gated):
        up, gate = (half.chunk(tp) for half in tensor.chunk(2))
        return [torch.cat(pair) for pair in zip(up, gate, strict=True)]
    return list(tensor.chunk(tp, dim=axis))


def tokenizer_arguments(folder: Path) -> dict[str, Any]:
    """The added tokens as Megatron-LLM's command line has them, so that its tokenizer gives the same ids."""
    if not folder.is_dir():
        return {}
    spec = read_tokenizer_spec(folder)
    tokens = spec["extra_special_tokens"]
    if any("," in token for token in tokens):
        warn(
            f"{folder}: --vocab_extra_ids_list of Megatron-LLM cannot spell a token with a comma, so none are recorded"
        )
        return {}
    return {"vocab_extra_ids_list": ",".join(tokens) or None, "new_tokens": bool(spec["new_tokens"])}


def saved_arguments(model: ModelConfig, rows: int, tp: int, pp: int, tokenizer: Mapping[str, Any]) -> Namespace:
    """What --use_checkpoint_args reads, and what loading compares."""
    is_llama = model.family == "llama"
    return Namespace(
        num_layers=model.num_layers,
        encoder_num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_attention_heads_kv=model.query_groups,
        kv_channels=model.head_dim,
        max_position_embeddings=model.max_position_embeddings,
        seq_length=model.max_position_embeddings,
        padded_vocab_size=rows,
        make_vocab_size_divisible_by=ROWS_DIVISIBLE_BY,
        tokenizer_type="SentencePieceTokenizer" if is_llama else "FalconTokenizer",
        **tokenizer,
        glu_activation="swiglu" if is_llama else None,
        use_rms_norm=is_llama,
        layernorm_epsilon=model.layernorm_epsilon,
        use_bias=model.add_bias_linear,
        parallel_attn=model.parallel_residual,
        parallel_layernorm=model.parallel_residual and not model.shared_norm,
        tie_embed_logits=model.share_embeddings_and_output_weights,
        position_embedding_type="rotary",
        rope_theta=model.rotary_base,
        rope_scaling_factor=model.rope_scaling_factor,
        sliding_window_size=model.sliding_window,
        hidden_dropout=0.0,
        bias_gelu_fusion=False,
        bias_droput_fusion=False,
        data_parallel_random_init=False,
        consumed_train_samples=0,
        consumed_valid_samples=0,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        iteration="release",
    )


def _nested(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """language_model as a trained checkpoint holds it: embedding, encoder, lm_head."""
    nested: dict[str, Any] = {}
    if EMBEDDING in tensors:
        nested["embedding"] = {"word_embeddings": {"weight": tensors[EMBEDDING]}}
    prefix = "encoder."
    nested["encoder"] = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    if HEAD in tensors:
        nested[HEAD] = tensors[HEAD]
    return nested
