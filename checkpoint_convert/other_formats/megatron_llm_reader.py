"""Read Megatron-LLM's checkpoints: tensors joined over all ranks, with layers numbered across pipeline stages.

    weights = MegatronLlmWeights(Path("llama2-70b-tp8-pp4/release"))
    weights.read("encoder.layers.3.mlp.dense_h_to_4h.weight")

    release/mp_rank_00/model_optim_rng.pt            one pipeline stage, tensor rank 0
    iter_0012000/mp_rank_03_001/model_optim_rng.pt   tensor rank 3 of pipeline stage 1

Each stage numbers its layers from 0. Source: epfLLM/Megatron-LLM 806a833 megatron/checkpointing.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoint_convert.other_formats.megatron_llm_table import EMBEDDING, is_up_gate, partition_axis
from checkpoint_convert.other_formats.rank_parts import check_ranks
from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo
from checkpoint_convert.tensors.torch_archive import read_archive
from megatron_train.checkpoint.recognize import TO_TORCH_DIST, described
from megatron_train.checkpoint.safe_pickle import Inert
from megatron_train.config.parallel_layout import ParallelLayout

FILE_NAMES = ("model_optim_rng.pt", "model_rng.pt")
LAYER_NAME, CHUNK_NAME = re.compile(r"^encoder\.layers\.(\d+)\."), re.compile(r"model\d*")
KEPT = (
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
"""(module, name) of classes, besides tensors, that Megatron-LLM's pickles import.

Their instances are read as inert values, and their code never runs.
"""


class MegatronLlmWeights:
    """The weights in one folder (release/ or iter_*/) of Megatron-LLM, joined over all ranks.

    Raises ConvertError naming a missing, damaged or inconsistent file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = _rank_files(folder)
        self.tp, self.pp = 1 + max(tp for tp, _ in files), 1 + max(pp for _, pp in files)
        missing = [(t, p) for t in range(self.tp) for p in range(self.pp) if (t, p) not in files]
        if missing:
            raise ConvertError(f"{folder}: the files of (tensor, pipeline) ranks {missing} are missing")
        states = {rank: _read_rank(path) for rank, path in files.items()}
        self.arguments: dict[str, Any] = states[0, 0]["args"].state
        self.num_layers = _num_layers(self.arguments, files[0, 0])
        self.chunks = _model_chunks({files[rank]: state for rank, state in states.items()})
        self._parts: dict[str, list[Tensor]] = {}
        for pp in range(self.pp):
            ranks = [(tp, pp) for tp in range(self.tp)]
            self._add_stage(pp, [states[rank] for rank in ranks], [files[rank] for rank in ranks])
        self.infos = {name: self._info(name, parts) for name, parts in self._parts.items()}
        if EMBEDDING not in self.infos:
            raise ConvertError(f"{files[0, 0]}: lacks {EMBEDDING}; the file is incomplete, fetch it again")

    @property
    def is_gated(self) -> bool:
        return self.arguments.get("glu_activation") is not None

    def read(self, name: str) -> Tensor:
        """Return the tensor `name`, joined from the parts of all tensor-parallel ranks."""
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
        """Add the tensors of one pipeline stage (`pp`) under names with the layers' numbers in the whole model."""
        layout = ParallelLayout(self.tp * self.pp, self.tp, self.pp, vpp=len(self.chunks))
        for index, chunk in enumerate(self.chunks):
            layers = layout.layers_of_stage(self.num_layers, pp, index)
            ranks = [_chunk_tensors(state[chunk], f"{file}: {chunk}") for state, file in zip(states, files)]
            check_ranks(ranks, files, partition_axis)
            found = {int(match[1]) for name in ranks[0] if (match := LAYER_NAME.match(name))}
            per_chunk = (
                layers.stop - layers.start
            )  # compared before building a set, because a damaged file may claim billions
            if len(found) != per_chunk or found != set(range(per_chunk)):
                raise ConvertError(
                    f"{files[0]}: {chunk} has the layers {sorted(found)}; {self.num_layers} layers in {self.pp} "
                    f"pipeline stages of {len(self.chunks)} model chunks make {per_chunk} each, numbered from 0"
                )
            for name in ranks[0]:
                self._parts[_with_offset(name, layers.start)] = [rank[name] for rank in ranks]


def _num_layers(arguments: Mapping[str, Any], file: Path) -> int:
    number = arguments.get("num_layers") or arguments.get("encoder_num_layers")
    if not isinstance(number, int) or number < 1:
        raise ConvertError(f"{file}: num_layers in its arguments is {number!r}; expected a whole number of at least 1")
    return number


def _model_chunks(states: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """Return the names of the model chunks that each rank's file holds, in numerical order.

    They are `model`, or `model0`, `model1` ... for virtual pipeline stages. Raises ConvertError when files differ.
    """
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
            raise ConvertError(f"{file}: has {len(chunks)} model chunks, but another rank has {len(first)}")
    return first


def _chunk_tensors(chunk: Any, where: str) -> dict[str, Tensor]:
    found = _flat_names(chunk.get("language_model")) if isinstance(chunk, dict) else {}
    if not found:
        raise ConvertError(
            f"{where} has no tensors under language_model, so it is not a checkpoint of Megatron-LLM; Megatron-LM "
            f"converts its own with {TO_TORCH_DIST}"
        )
    return found


def _with_offset(name: str, first: int) -> str:
    return LAYER_NAME.sub(lambda match: f"encoder.layers.{int(match[1]) + first}.", name)


def _flat_names(language_model: Any) -> dict[str, Tensor]:
    """Return {dotted name: tensor} for the nested dicts of a file, with today's names.

    Converted releases have the older words `transformer` for encoder and `attention` for self_attention.
    """
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
    """Return {(tensor-parallel rank, pipeline stage): file} of a Megatron-LLM folder.

    Raises ConvertError when there is no such file.
    """
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.glob("mp_rank_*")):
        match = re.fullmatch(r"mp_rank_(\d{2,})(?:_(\d{3}))?", path.name)
        file = next((path / name for name in FILE_NAMES if (path / name).is_file()), None)
        if match and file is not None:
            found[int(match.group(1)), int(match.group(2) or 0)] = file
    if not found:
        raise ConvertError(
            f"{folder}: has no mp_rank_*/model_optim_rng.pt, so it is not a checkpoint of Megatron-LLM; {folder} "
            f"{described(folder)}"
        )
    return found


def _read_rank(path: Path) -> dict[str, Any]:
    state = read_archive(MappedFile(path), kept=KEPT)
    if (
        not isinstance(state, dict)
        or not isinstance(state.get("args"), Inert)
        or not isinstance(state["args"].state, dict)
    ):
        raise ConvertError(f"{path}: expected a dict with the entries args and model")
    version = state.get("checkpoint_version", 0)
    if version != 3.0:
        raise ConvertError(f"{path}: checkpoint_version is {version}, but only 3.0 is supported")
    return state
