"""Add vocabulary rows to embedding and output layer for new tokens and padding, and remove them on export.

    32,000 rows of the source | 7 new tokens | 121 rows of padding        = 32,128 = 251 x 128

New rows and padding get the same initial values. `mean` is the mean of the source's rows. `last_row` copies the last
row, as the run of the llama2-70b model card did. `normal` draws random rows, as Hugging Face does. Rows of the source
stay unchanged, even if its tokenizer does not use them.
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
    """Numbers of vocabulary rows in the source, in use, and with padding, and the initial value of the new rows."""

    source_rows: int
    used_rows: int
    padded_rows: int
    new_token_init: NewTokenInit = "mean"
    std: float = 0.02
    """Standard deviation of new rows with `new_token_init` normal."""
    seed: int = 1234

    def describe(self) -> str:
        """Return a line such as `32,000 rows of the source + 7 new (--new_token_init mean) = 32,007, padded to ...`."""
        rows, new = f"{self.source_rows:,} rows of the source", self.used_rows - self.source_rows
        if new > 0:
            rows += f" + {new:,} new (--new_token_init {self.new_token_init}) = {self.used_rows:,}"
        elif new < 0:
            rows += f", {self.used_rows:,} in use"
        return f"{rows}, padded to {self.padded_rows:,}"


def grow(tensor: Tensor, plan: RowPlan, name: str) -> Parts:
    """Return an embedding or output layer [source_rows, hidden] with its new rows, as parts of [padded_rows, hidden].

    The parts are views to be concatenated along axis 0. The first rows equal the source's bit for bit. Raises
    ConvertError naming the tensor `name` when it does not have the plan's number of source rows.
    """
    if tensor.shape[0] != plan.source_rows:
        raise ConvertError(f"{name}: has {tensor.shape[0]:,} rows, but the config states {plan.source_rows:,}")
    new = plan.padded_rows - plan.source_rows
    return [tensor, _new_rows(tensor, plan, name).expand(new, *tensor.shape[1:])] if new > 0 else [tensor]


def shrink(tensor: Tensor, rows: int) -> Tensor:
    """Return the first `rows` rows of an embedding or output layer, as a view."""
    return tensor[:rows]


def _new_rows(tensor: Tensor, plan: RowPlan, name: str) -> Tensor:
    """Return the initial value of the new rows: one row to repeat, or with `normal` a random row for each."""
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
