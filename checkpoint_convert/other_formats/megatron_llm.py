"""Megatron-LLM's checkpoints: names, tensor- and pipeline-parallel parts, reading.

    weights = MegatronLlmWeights(Path("llama2-70b-tp8-pp4/release"))
    weights.read("encoder.layers.3.mlp.dense_h_to_4h.weight")         # joined from all parts

    release/mp_rank_00/model_optim_rng.pt            one pipeline stage, tensor rank 0
    iter_0012000/mp_rank_03_001/model_optim_rng.pt   tensor rank 3 of pipeline stage 1

Its layout differs from megatron-core's in two things: q and k have interleaved rotary channels, and a gated MLP has
up before gate, on each rank. Layers are numbered from 0 in each stage. Source: epfLLM/Megatron-LLM 806a833
megatron/model/language_model.py, megatron/checkpointing.py, weights_conversion/hf_to_megatron.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoint_convert.mapping.rules import Direct, Rule, Table, expand, linear
from checkpoint_convert.other_formats.rank_parts import check_ranks
from checkpoint_convert.other_formats.rotary_order import to_halves, to_interleaved
from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError, Parts, TensorInfo
from checkpoint_convert.tensors.torch_archive import Opaque, read_archive
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout

HERE, THERE = "decoder.layers.{layer}", "encoder.layers.{layer}"
FILE_NAMES = ("model_optim_rng.pt", "model_rng.pt")
EMBEDDING, HEAD = "embedding.word_embeddings.weight", "lm_head"
LAYER_NAME, CHUNK_NAME = re.compile(r"^encoder\.layers\.(\d+)\."), re.compile(r"model\d*")
OPAQUE = (
    *(("argparse", "Namespace"), ("torch", "device"), ("torch", "dtype"), ("numpy", "ndarray"), ("numpy", "dtype")),
    *(("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("_codecs", "encode")),
    *(("collections", "defaultdict"), ("pathlib", "PosixPath"), ("builtins", "set"), ("__builtin__", "set")),
    *(
        (module, name)
        for module in ("megatron.model.enums", "megatron.core.enums")
        for name in ("ModelType", "LayerType")
    ),
    *(("megatron.model.enums", name) for name in ("AttnType", "AttnMaskType", "PositionEmbeddingType")),
)
"""What such a pickle imports besides tensors: kept as inert values, none of it is loaded or run."""


@dataclass(frozen=True)
class InterleavedQKV(Rule):
    """query_key_value, group by group as linear_qkv, with the channels of q and k interleaved."""

    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        return _reorder(tensors[0], model, to_halves)

    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        return [_reorder(tensor, model, to_interleaved)]


def _reorder(tensor: Tensor, model: ModelConfig, order: Any) -> Parts:
    values = model.head_dim
    groups = (group.split([len(group) - values, values]) for group in tensor.chunk(model.query_groups))
    return [part for rotated, value in groups for part in (order(rotated, model.head_dim), value)]


@dataclass(frozen=True)
class UpGate(Rule):
    """dense_h_to_4h of a gated MLP: rows of up, then rows of gate."""

    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        return tensors[0].chunk(2)[::-1]

    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        return [tensor.chunk(2)[::-1]]


def table(model: ModelConfig) -> Table:
    """Every tensor of Megatron-LLM's model. Raises ConvertError for a family that it does not have."""
    if model.family not in ("llama", "falcon") or model.add_qkv_bias or model.rotary_percent != 1.0:
        raise ConvertError(f"Megatron-LLM has Llama and Falcon models only, not this {model.family} model")
    norm_bias, bias = model.normalization == "LayerNorm", model.add_bias_linear
    attention, mlp = "self_attention", UpGate if model.gated_linear_unit else Direct
    second = "post_attention_layernorm" if not model.parallel_residual else "mlp_layernorm"
    second_norm = linear(Direct, f"{HERE}.pre_mlp_layernorm", f"{THERE}.{second}", norm_bias)
    head = Direct("output_layer.weight", HEAD, is_vocabulary=True)
    rules = (
        Direct("embedding.word_embeddings.weight", EMBEDDING, is_vocabulary=True),
        *linear(Direct, f"{HERE}.input_layernorm", f"{THERE}.input_layernorm", norm_bias),
        *linear(InterleavedQKV, f"{HERE}.{attention}.linear_qkv", f"{THERE}.{attention}.query_key_value", bias),
        *linear(Direct, f"{HERE}.{attention}.linear_proj", f"{THERE}.{attention}.dense", bias),
        *(() if model.shared_norm else second_norm),
        *linear(mlp, f"{HERE}.mlp.linear_fc1", f"{THERE}.mlp.dense_h_to_4h", bias),
        *linear(Direct, f"{HERE}.mlp.linear_fc2", f"{THERE}.mlp.dense_4h_to_h", bias),
        *linear(Direct, "decoder.final_layernorm", "encoder.final_layernorm", norm_bias),
        *(() if model.share_embeddings_and_output_weights else (head,)),
    )
    return Table(f"Megatron-LLM {model.family} model", expand(rules, model.num_layers), buffers=(".inv_freq",))


def partition_axis(name: str) -> int | None:
    """The axis on which tensor-parallel ranks divide a tensor; None = each has all of it."""
    if name.endswith(("query_key_value.weight", "query_key_value.bias", "dense_h_to_4h.weight", "dense_h_to_4h.bias")):
        return 0
    if name.endswith((".dense.weight", "dense_4h_to_h.weight")):
        return 1
    return 0 if name in (EMBEDDING, HEAD) else None


def is_up_gate(name: str, model_is_gated: bool) -> bool:
    """Whether each rank holds its part of up followed by its part of gate."""
    return model_is_gated and ".dense_h_to_4h." in name


class MegatronLlmWeights:
    """The weights of one checkpoint folder (release/ or iter_*/), joined over its ranks, layers numbered through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = _rank_files(folder)
        self.tp, self.pp = 1 + max(tp for tp, _ in files), 1 + max(pp for _, pp in files)
        missing = [(t, p) for t in range(self.tp) for p in range(self.pp) if (t, p) not in files]
        if missing:
            raise ConvertError(f"{folder}: the files of (tensor, pipeline) ranks {missing} are missing")
        states = {rank: _read_rank(path) for rank, path in files.items()}
        self.arguments: dict[str, Any] = vars(states[0, 0]["args"])
        self.num_layers = _num_layers(self.arguments, files[0, 0])
        self.chunks = _model_chunks({files[rank]: state for rank, state in states.items()})
        self._parts: dict[str, list[Tensor]] = {}
        for pp in range(self.pp):
            ranks = [(tp, pp) for tp in range(self.tp)]
            self._add_stage(pp, [states[rank] for rank in ranks], [files[rank] for rank in ranks])
        self.infos = {name: self._info(name, parts) for name, parts in self._parts.items()}
        if EMBEDDING not in self.infos:
            raise ConvertError(f"{files[0, 0]}: lacks {EMBEDDING}; is the file complete? Fetch or save it again")

    @property
    def is_gated(self) -> bool:
        return self.arguments.get("glu_activation") is not None

    def read(self, name: str) -> Tensor:
        """A tensor joined over the tensor-parallel ranks."""
        parts, axis = self._parts[name], partition_axis(name)
        if axis is None or len(parts) == 1:
            return parts[0]
        if is_up_gate(name, self.is_gated):
            halves = [part.chunk(2) for part in parts]
            return torch.cat([half[0] for half in halves] + [half[1] for half in halves])
        return torch.cat(parts, dim=axis)

    def _info(self, name: str, parts: list[Tensor]) -> TensorInfo:
        axis, shape = partition_axis(name), list(parts[0].shape)
        if axis is not None:
            shape[axis] = sum(part.shape[axis] for part in parts)
        return TensorInfo(tuple(shape), parts[0].dtype)

    def _add_stage(self, pp: int, states: list[dict[str, Any]], files: list[Path]) -> None:
        """The tensors of one pipeline stage, of each of its model chunks."""
        layout = ParallelLayout(self.tp * self.pp, self.tp, self.pp, vpp=len(self.chunks))
        for index, chunk in enumerate(self.chunks):
            layers = layout.layers_of_stage(self.num_layers, pp, index)
            ranks = [_chunk_tensors(state[chunk], f"{file}: {chunk}") for state, file in zip(states, files)]
            check_ranks(ranks, files, partition_axis)
            found = {int(match[1]) for name in ranks[0] if (match := LAYER_NAME.match(name))}
            per_chunk = layers.stop - layers.start  # a damaged file may name more than fit into a set
            if len(found) != per_chunk or found != set(range(per_chunk)):
                raise ConvertError(
                    f"{files[0]}: {chunk} holds the layers {sorted(found)}; {self.num_layers} layers in {self.pp} "
                    f"pipeline stages of {len(self.chunks)} model chunks make {per_chunk} each, numbered from 0"
                )
            for name in ranks[0]:
                self._parts[_numbered_through(name, layers.start)] = [rank[name] for rank in ranks]


def _num_layers(arguments: Mapping[str, Any], file: Path) -> int:
    number = arguments.get("num_layers") or arguments.get("encoder_num_layers")
    if not isinstance(number, int) or number < 1:
        raise ConvertError(f"{file}: its arguments do not tell num_layers ({number!r})")
    return number


def _model_chunks(states: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """`model`, or with virtual pipeline stages `model0`, `model1` ... by number: model10 comes after model9."""
    found = {
        file: sorted((key for key in state if CHUNK_NAME.fullmatch(str(key))), key=lambda key: (len(key), key))
        for file, state in states.items()
    }
    first = next(iter(found.values()))
    for file, chunks in found.items():
        if not chunks or chunks not in (["model"], [f"model{i}" for i in range(len(chunks))]):
            names = ", ".join(chunks) or "neither"
            raise ConvertError(f"{file}: expected the entry model, or model0, model1 ... without a gap; found {names}")
        if chunks != first:
            raise ConvertError(f"{file}: holds {len(chunks)} model chunks, another rank's file {len(first)}")
    return first


def _chunk_tensors(chunk: Any, where: str) -> dict[str, Tensor]:
    found = _flat_names(chunk.get("language_model")) if isinstance(chunk, dict) else {}
    if not found:
        raise ConvertError(f"{where} holds no tensors under language_model; is this Megatron-LLM's checkpoint?")
    return found


def _numbered_through(name: str, first: int) -> str:
    return LAYER_NAME.sub(lambda match: f"encoder.layers.{int(match[1]) + first}.", name)


def _flat_names(language_model: Any) -> dict[str, Tensor]:
    """The newer spelling of every name: a converted release says transformer and attention, a trained one encoder."""
    found: dict[str, Tensor] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found[prefix.replace("transformer.", "encoder.", 1).replace(".attention.", ".self_attention.")] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), inner)

    add("", language_model)
    return found


def _rank_files(folder: Path) -> dict[tuple[int, int], Path]:
    """(tensor rank, pipeline rank) -> file."""
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.glob("mp_rank_*")):
        match = re.fullmatch(r"mp_rank_(\d{2,})(?:_(\d{3}))?", path.name)
        file = next((path / name for name in FILE_NAMES if (path / name).is_file()), None)
        if match and file is not None:
            found[int(match.group(1)), int(match.group(2) or 0)] = file
    if not found:
        raise ConvertError(f"{folder}: no mp_rank_*/model_optim_rng.pt in it, so this is no checkpoint of Megatron-LLM")
    return found


def _read_rank(path: Path) -> dict[str, Any]:
    state = read_archive(MappedFile(path), opaque=OPAQUE)
    if not isinstance(state, dict) or not isinstance(state.get("args"), Opaque):
        raise ConvertError(f"{path}: expected a dict with the entries args and model")
    version = state.get("checkpoint_version", 0)
    if version != 3.0:
        raise ConvertError(f"{path}: checkpoint_version is {version}, only 3.0 is supported")
    return state
