"""Rows of embedding and output layer: growing for new tokens, padding for tensor parallelism, cutting on export.

    32,000 rows of the source | 7 new tokens | 121 rows of padding        = 32,128 = 251 x 128

New rows and padding are filled alike. `mean`: the mean of the source's rows, so that a new token starts as an average
one. `last_row`: copies of the last row, as the run of the llama2-70b card had them. `normal`: drawn, as Hugging Face
does. Ids within the source's rows that its tokenizer did not use keep what the source holds there.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from checkpoint_convert.tensors.tensor import ConvertError, Parts

NewTokenInit = Literal["mean", "last_row", "normal"]
BLOCK_ROWS = 256


@dataclass(frozen=True)
class RowPlan:
    """How many rows there are, are used, and are allocated."""

    source_rows: int
    used_rows: int
    padded_rows: int
    new_token_init: NewTokenInit = "mean"
    std: float = 0.02
    """Of `normal`."""
    seed: int = 1234

    def describe(self) -> str:
        """`32,000 rows of the source + 7 new ones (mean) = 32,007; padded to 32,128`."""
        rows, new = f"{self.source_rows:,} rows of the source", self.used_rows - self.source_rows
        if new > 0:
            rows += f" + {new:,} new (--new_token_init {self.new_token_init}) = {self.used_rows:,}"
        elif new < 0:
            rows += f", {self.used_rows:,} in use"
        return f"{rows}, padded to {self.padded_rows:,}"


def grow(tensor: Tensor, plan: RowPlan, name: str) -> Parts:
    """[source_rows, hidden] -> [padded_rows, hidden]; the first rows are the source's, bit for bit."""
    if tensor.shape[0] != plan.source_rows:
        raise ConvertError(f"{name}: has {tensor.shape[0]:,} rows where the config says {plan.source_rows:,}")
    new = plan.padded_rows - plan.source_rows
    return [tensor, _new_rows(tensor, plan, name).expand(new, *tensor.shape[1:])] if new > 0 else [tensor]


def shrink(tensor: Tensor, rows: int) -> Tensor:
    """The first `rows` rows."""
    return tensor[:rows]


def _new_rows(tensor: Tensor, plan: RowPlan, name: str) -> Tensor:
    """One row, or all of them for `normal`."""
    if plan.new_token_init == "last_row":
        return tensor[-1]
    if plan.new_token_init == "mean":
        total = torch.zeros(tensor.shape[1:], dtype=torch.float64, device=tensor.device)
        for block in tensor.split(BLOCK_ROWS):
            total += block.double().sum(0)
        return (total / tensor.shape[0]).to(tensor.dtype)
    shape = (plan.padded_rows - plan.source_rows, *tensor.shape[1:])
    if tensor.device.type == "meta":
        return tensor.new_empty(shape)
    generator = torch.Generator().manual_seed(plan.seed + zlib.crc32(name.encode()))
    return (torch.randn(shape, generator=generator) * plan.std).to(tensor.dtype)
