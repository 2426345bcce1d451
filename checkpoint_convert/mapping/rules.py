"""Rules that turn one tensor of megatron-core into tensors of another format, and back, bit for bit.

    rule = FusedQKV("decoder.layers.{layer}.self_attention.linear_qkv.weight",
                    "model.layers.{layer}.self_attn.{q,k,v}_proj.weight")
    rule.at(3).others          # ('model.layers.3.self_attn.q_proj.weight', '...k_proj.weight', '...v_proj.weight')

Layouts, for `groups` query groups of `n` query heads with `d` channels each:

    linear_qkv   rows of group 0: n*d of q, d of k, d of v; then group 1 ...   (GPT-NeoX and Falcon: the same)
    linear_fc1   gated: rows of gate (the activation applies to them), then rows of up

The functions return views to be concatenated along axis 0, and copy nothing. They also work on the `meta` device, so
all shapes can be computed before any tensor is read.
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
    """Converts one tensor of megatron-core to one or more tensors of another format, and back.

    `megatron` and `other` are the names on the two sides. Several names are written as `a.{q,k,v}.b`.
    """

    megatron: str
    other: str
    is_vocabulary: bool = False
    """Whether axis 0 has one row for each token. vocabulary.py adds and removes such rows."""

    @property
    def others(self) -> tuple[str, ...]:
        """Names in the other format, in the order in which to_megatron takes and to_other returns the tensors."""
        match = re.fullmatch(r"(.*)\{([^{}]*,[^{}]*)\}(.*)", self.other)
        if match is None:
            return (self.other,)
        return tuple(match.group(1) + word + match.group(3) for word in match.group(2).split(","))

    @property
    def is_per_layer(self) -> bool:
        return LAYER in self.megatron

    def at(self, layer: int) -> Self:
        """Return the rule for one layer, with `{layer}` in its names replaced by the layer's number."""
        here = str(layer)
        return replace(self, megatron=self.megatron.replace(LAYER, here), other=self.other.replace(LAYER, here))

    @abstractmethod
    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        """Join tensors of the other format, in the order of `others`, to megatron-core's tensor.

        Return it as parts to be concatenated along axis 0.
        """

    @abstractmethod
    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        """Split megatron-core's tensor into the tensors of the other format, in the order of `others`.

        Return each of them as parts to be concatenated along axis 0.
        """


@dataclass(frozen=True)
class Direct(Rule):
    """A rule for a tensor that differs only in its name."""

    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        return tensors

    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        return [[tensor]]


@dataclass(frozen=True)
class FusedQKV(Rule):
    """A rule that joins the q, k and v projections to linear_qkv, group by group; weights and biases alike.

    q [heads*d, ...], k and v [groups*d, ...] <-> linear_qkv [groups*(n+2)*d, ...], for n query heads in each group and
    d channels in each head.
    """

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
    """A rule that joins gate and up [ffn, hidden] of a gated MLP to linear_fc1 [2*ffn, hidden], gate first."""

    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        return tensors

    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        return [[half] for half in tensor.chunk(2)]


@dataclass(frozen=True)
class Table:
    """The rules for every tensor of one model in one file format, and extra tensor names that its files may contain."""

    name: str
    """Name of the format and model, for error messages."""
    rules: tuple[Rule, ...]
    tied_copy: str = ""
    """Name of the output layer. A tied model shares the embedding's weights with it; its files may hold them twice."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Usual tensor name -> another name that some files use for the same tensor."""
    buffers: tuple[str, ...] = ()
    """Endings of tensor names that are not weights (masks, rotary tables)."""


def expand(rules: Sequence[Rule], num_layers: int) -> tuple[Rule, ...]:
    """Return the rules with each per-layer rule repeated for every layer, in the order of a forward pass."""
    first = next((i for i, rule in enumerate(rules) if rule.is_per_layer), len(rules))
    layered = [rule for rule in rules if rule.is_per_layer]
    before, after = rules[:first], [rule for rule in rules[first:] if not rule.is_per_layer]
    return (*before, *(rule.at(layer) for layer in range(num_layers) for rule in layered), *after)


def linear(kind: type[Rule], megatron: str, other: str, bias: bool) -> tuple[Rule, ...]:
    """Return the rules of type `kind` for a linear layer or norm: for its `.weight` and, with `bias`, its `.bias`."""
    parts = ("weight", "bias") if bias else ("weight",)
    return tuple(kind(f"{megatron}.{part}", f"{other}.{part}") for part in parts)
