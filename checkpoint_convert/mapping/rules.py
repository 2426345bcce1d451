"""Rules that turn one tensor of megatron-core into tensors of another format, and back, bit for bit.

    rule = FusedQKV("decoder.layers.{layer}.self_attention.linear_qkv.weight",
                    "model.layers.{layer}.self_attn.{q,k,v}_proj.weight")
    rule.at(3).others          # ('model.layers.3.self_attn.q_proj.weight', '...k_proj.weight', '...v_proj.weight')

Layouts, for `groups` query groups of `n` query heads with `d` channels each:

    linear_qkv   rows of group 0: n*d of q, d of k, d of v; then group 1 ...   (GPT-NeoX and Falcon: the same)
    linear_fc1   gated: rows of gate (the activation applies to them), then rows of up

The functions return views to be concatenated along axis 0, and copy nothing. They also work on the `meta` device, which
gives all shapes before any tensor is read.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from checkpoint_convert.tensors.tensor import Parts
from megatron_train.config.model_config import ModelConfig

LAYER = "{layer}"


@dataclass(frozen=True)
class Rule(ABC):
    """One line of a weight table. `megatron` is one name; `other` is a name, or several written as `a.{q,k,v}.b`."""

    megatron: str
    other: str
    is_vocabulary: bool = False
    """Axis 0 counts tokens. vocabulary.py adds and removes rows."""

    @property
    def others(self) -> tuple[str, ...]:
        """Names in the other format, in the order in which the functions take and return tensors."""
        match = re.fullmatch(r"(.*)\{([^{}]*,[^{}]*)\}(.*)", self.other)
        if match is None:
            return (self.other,)
        return tuple(match.group(1) + word + match.group(3) for word in match.group(2).split(","))

    @property
    def is_per_layer(self) -> bool:
        return LAYER in self.megatron

    def at(self, layer: int) -> Self:
        """Return the rule of one layer, with `{layer}` replaced by its number."""
        here = str(layer)
        return replace(self, megatron=self.megatron.replace(LAYER, here), other=self.other.replace(LAYER, here))

    @abstractmethod
    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        """Convert tensors of the other format, in the order of `others`, to megatron-core's tensor."""

    @abstractmethod
    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        """Invert to_megatron."""


@dataclass(frozen=True)
class Direct(Rule):
    """The tensor is the same and only its name differs."""

    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        return tensors

    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        return [[tensor]]


@dataclass(frozen=True)
class FusedQKV(Rule):
    """q [heads*d, ...], k and v [groups*d, ...] <-> linear_qkv [groups*(n+2)*d, ...]; weights and biases alike."""

    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        groups = zip(*(tensor.chunk(model.query_groups) for tensor in tensors), strict=True)
        return [part for group in groups for part in group]

    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        channels = model.head_dim
        queries = model.num_attention_heads // model.query_groups * channels
        groups = (group.split([queries, channels, channels]) for group in tensor.chunk(model.query_groups))
        return list(zip(*groups, strict=True))


@dataclass(frozen=True)
class FusedGateUp(Rule):
    """gate and up [ffn, hidden] <-> linear_fc1 [2*ffn, hidden], gate first."""

    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        return tensors

    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        return [[half] for half in tensor.chunk(2)]


@dataclass(frozen=True)
class Table:
    """The tensor names of one model in one format: a rule for every tensor, and extra names its files may contain."""

    name: str
    """Name of the format and model, for messages."""
    rules: tuple[Rule, ...]
    tied_copy: str = ""
    """Name of the output layer, which a file of a tied model may repeat."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Name -> another name that some files use for the same tensor."""
    buffers: tuple[str, ...] = ()
    """Suffixes of names that are not weights (masks, rotary tables)."""


def expand(rules: Sequence[Rule], num_layers: int) -> tuple[Rule, ...]:
    """Repeat the per-layer rules for every layer, in the order of a forward pass."""
    first = next((i for i, rule in enumerate(rules) if rule.is_per_layer), len(rules))
    layered = [rule for rule in rules if rule.is_per_layer]
    before, after = rules[:first], [rule for rule in rules[first:] if not rule.is_per_layer]
    return (*before, *(rule.at(layer) for layer in range(num_layers) for rule in layered), *after)


def linear(kind: type[Rule], megatron: str, other: str, bias: bool) -> tuple[Rule, ...]:
    """Return the rules of a linear layer or norm: `.weight`, and `.bias` if it has a bias."""
    parts = ("weight", "bias") if bias else ("weight",)
    return tuple(kind(f"{megatron}.{part}", f"{other}.{part}") for part in parts)
