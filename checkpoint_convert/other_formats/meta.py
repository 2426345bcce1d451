"""Read Meta's own files of Llama 1, 2, 3 and CodeLlama: consolidated.*.pth and params.json.

    weights = MetaWeights(Path("llama-2-70b"));  weights.read("model.layers.0.self_attn.q_proj.weight")

Each .pth is the part of one model-parallel rank. This module joins the parts, reorders the rows of q and k from
interleaved rotary order to halves, and presents all tensors under Hugging Face's names. torch_archive.py reads the
pickles. Source of names and axes: meta-llama/llama llama/model.py, facebookresearch fairscale model_parallel/layers.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoint_convert.families.family import words
from checkpoint_convert.other_formats.rank_parts import check_ranks
from checkpoint_convert.other_formats.rotary_order import to_halves
from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo, same_bits
from checkpoint_convert.tensors.torch_archive import read_archive
from megatron_train.checkpoint.recognize import described
from pretokenizer.files.publish import read_json


@dataclass(frozen=True)
class Part:
    """Where a Hugging Face tensor comes from: its name in Meta's files, and the axis on which its parts are joined."""

    name: str
    axis: int | None
    """None = every file has the whole tensor, so nothing is joined."""
    heads: str = ""
    """`n_heads` or `n_kv_heads` if the rows are rotary channels, which are reordered; else empty."""


PARTS = {
    "model.embed_tokens.weight": Part("tok_embeddings.weight", 1),
    "model.layers.{}.input_layernorm.weight": Part("layers.{}.attention_norm.weight", None),
    "model.layers.{}.self_attn.q_proj.weight": Part("layers.{}.attention.wq.weight", 0, "n_heads"),
    "model.layers.{}.self_attn.k_proj.weight": Part("layers.{}.attention.wk.weight", 0, "n_kv_heads"),
    "model.layers.{}.self_attn.v_proj.weight": Part("layers.{}.attention.wv.weight", 0),
    "model.layers.{}.self_attn.o_proj.weight": Part("layers.{}.attention.wo.weight", 1),
    "model.layers.{}.post_attention_layernorm.weight": Part("layers.{}.ffn_norm.weight", None),
    "model.layers.{}.mlp.gate_proj.weight": Part("layers.{}.feed_forward.w1.weight", 0),
    "model.layers.{}.mlp.up_proj.weight": Part("layers.{}.feed_forward.w3.weight", 0),
    "model.layers.{}.mlp.down_proj.weight": Part("layers.{}.feed_forward.w2.weight", 1),
    "model.norm.weight": Part("norm.weight", None),
    "lm_head.weight": Part("output.weight", 0),
}
NOT_WEIGHTS = ("rope.freqs",)
KNOWN_PARAMS = words("""
    dim n_layers n_heads n_kv_heads vocab_size multiple_of ffn_dim_multiplier norm_eps rope_theta use_scaled_rope
    max_seq_len max_batch_size
    """)


class MetaWeights:
    """The tensors in a folder of Meta's files, under Hugging Face's names.

    Raises ConvertError naming a missing or unsuitable file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.params = folder, _read_params(folder / "params.json")
        files = sorted(folder.glob("consolidated.*.pth"))
        if not files:
            raise ConvertError(f"{folder}: has no consolidated.*.pth")
        self.parts = [_read_part(path) for path in files]
        self.dim, self.heads = int(self.params["dim"]), int(self.params["n_heads"])
        self.num_layers = int(self.params["n_layers"])
        self.infos: dict[str, TensorInfo] = {}
        self._sources: dict[str, Part] = {}
        self._plan(files)

    def read(self, name: str) -> Tensor:
        """Return the tensor `name`, joined from the parts in all files, in Hugging Face's rotary order."""
        part = self._sources[name]
        pieces = [state[part.name] for state in self.parts]
        whole = pieces[0] if part.axis is None or len(pieces) == 1 else torch.cat(pieces, dim=part.axis)
        return to_halves(whole, self.dim // self.heads) if part.heads else whole

    def hf_config(self, max_position_embeddings: int | None, rope_scaling_factor: float | None) -> dict[str, Any]:
        """Return the config.json that Hugging Face's version of the model has.

        Meta's files state neither the context length in tokens nor the rotary factor. None = the value of the published
        model.
        """
        theta = float(self.params.get("rope_theta", 10000.0))
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
        if self.is_rope_scaled:
            rope = {"rope_type": "llama3", "rope_theta": theta, "factor": rope_scaling_factor or self.usual_factor()}
        return {
            "model_type": "llama",
            "vocab_size": self.infos["model.embed_tokens.weight"].shape[0],
            "hidden_size": self.dim,
            "intermediate_size": self.infos["model.layers.0.mlp.gate_proj.weight"].shape[0],
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": int(self.params.get("n_kv_heads") or self.heads),
            "rms_norm_eps": float(self.params.get("norm_eps", 1e-5)),
            "max_position_embeddings": max_position_embeddings or self.usual_context(),
            "rope_parameters": rope,
            "tie_word_embeddings": self.is_tied,
        }

    @property
    def is_rope_scaled(self) -> bool:
        """Whether rotary frequencies are scaled, as in Llama 3.1 and later."""
        return bool(self.params.get("use_scaled_rope"))

    @cached_property
    def is_tied(self) -> bool:
        """Whether the output layer is missing or a copy of the embedding, as in Llama 3.2's small models."""
        if "lm_head.weight" not in self.infos:
            return True
        return len(self.parts) == 1 and same_bits(self.read("lm_head.weight"), self.read("model.embed_tokens.weight"))

    def usual_factor(self) -> float:
        """Return the rotary scaling factor of the published models: 32 for tied ones (Llama 3.2 1B and 3B), else 8."""
        return 32.0 if self.is_tied else 8.0

    def usual_context(self) -> int:
        """Return the context length, in tokens, of the published model with these parameters."""
        theta = float(self.params.get("rope_theta", 10000.0))
        if self.is_rope_scaled:
            return 131072  # Llama 3.1 and later
        if theta == 500000.0:
            return 8192  # Llama 3
        if theta == 1000000.0:
            return 16384  # CodeLlama
        return 2048 if float(self.params.get("norm_eps", 1e-5)) == 1e-6 else 4096  # Llama 1, Llama 2

    def _plan(self, files: list[Path]) -> None:
        first = self.parts[0]
        names = {name.format(i): part for name, part in PARTS.items() for i in range(self.num_layers)}
        for name, part in names.items():
            layer = re.search(r"layers\.(\d+)\.", name)
            meta = part.name.format(layer.group(1) if layer else "")
            if meta not in first:
                if name == "lm_head.weight":
                    continue  # tied: Llama 3.2's small models
                raise ConvertError(f"{files[0]}: lacks {meta}")
            axis = self._vocabulary_axis(first[meta]) if name == "model.embed_tokens.weight" else part.axis
            self._sources[name] = Part(meta, axis, part.heads)
        axes = {part.name: part.axis for part in self._sources.values()}
        unknown = sorted(first.keys() - axes.keys() - set(NOT_WEIGHTS))
        if unknown:
            raise ConvertError(f"{files[0]}: has tensors that do not belong to a Llama model: {', '.join(unknown[:5])}")
        weights = [{name: t for name, t in state.items() if name not in NOT_WEIGHTS} for state in self.parts]
        check_ranks(weights, files, axes.get)
        for name, part in self._sources.items():
            self.infos[name] = TensorInfo(self._shape(part.name, part.axis), first[part.name].dtype)

    def _vocabulary_axis(self, first: Tensor) -> int | None:
        """Return the axis on which the embedding is split: columns in Llama 1 and 2, rows in Llama 3.

        Return None for a single file.
        """
        if len(self.parts) == 1:
            return None
        return 0 if first.shape[-1] == self.dim else 1

    def _shape(self, meta: str, axis: int | None) -> tuple[int, ...]:
        shapes = [state[meta].shape for state in self.parts]
        return tuple(sum(s[i] for s in shapes) if i == axis else n for i, n in enumerate(shapes[0]))


def _read_params(path: Path) -> dict[str, Any]:
    try:
        params = {key: value for key, value in dict(read_json(path)).items() if value is not None}
        for key in ("n_kv_heads", "norm_eps", "rope_theta"):
            float(params.get(key, 0))
        missing = [key for key in ("dim", "n_layers", "n_heads") if int(params[key]) < 1]
    except (FileNotFoundError, NotADirectoryError):
        is_meta = any(path.parent.glob("consolidated.*.pth"))
        remedy = "fetch it too" if is_meta else f"{path.parent} {described(path.parent)}"
        raise ConvertError(f"{path}: missing; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConvertError(f"{path}: not the parameters of a Llama model ({error!r})") from None
    unknown = sorted(set(params) - KNOWN_PARAMS)
    if missing or unknown:
        raise ConvertError(f"{path}: these parameters do not belong to a Llama model: {', '.join(missing + unknown)}")
    return params


def _read_part(path: Path) -> dict[str, Tensor]:
    state = read_archive(MappedFile(path))
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConvertError(f"{path}: expected a dict of tensors")
    return state
