"""The boundaries of packed documents, for the model's rotary angles and attention."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor


@dataclass
class PackedRow(PackedSeqParams):
    """Documents laid end to end in one row of t positions [1, t].

    megatron-core treats it as an ordinary row (`sbhd`). With its own format for packed rows (`thd`), every layer reads
    the boundaries from the GPU, and the CPU waits for it. Here the CPU keeps its own copy in `bounds`.
    """

    position_ids: Tensor | None = None
    """[1, t] position of each token within its document."""
    bounds: tuple[int, ...] = ()
    """First position of each document and the end of the last one: the numbers of cu_seqlens, on the CPU."""

    @classmethod
    def of(cls, cu_seqlens: Tensor, position_ids: Tensor, bounds: tuple[int, ...]) -> PackedRow:
        """Make the row from `cu_seqlens` [documents + 1] on the model's device, and the same numbers as `bounds`."""
        longest = max(end - start for start, end in itertools.pairwise(bounds))
        return cls(
            qkv_format="sbhd",
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
            position_ids=position_ids,
            bounds=bounds,
        )

    def in_thd_format(self) -> PackedSeqParams:
        """Return the same boundaries in megatron-core's format for packed rows."""
        return PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=self.cu_seqlens_q,
            cu_seqlens_kv=self.cu_seqlens_kv,
            max_seqlen_q=self.max_seqlen_q,
            max_seqlen_kv=self.max_seqlen_kv,
        )
