"""Names of parallel layouts, such as tp2-pp2-vpp2-sp, and the settings and ranks that they stand for.

A name has one or more of these parts, joined by dashes:

    tp2 pp4 dp2            tensor-parallel ranks, pipeline stages, data-parallel ranks
    vpp2                   model chunks per pipeline stage
    first1 last2           layers of the first and of the last pipeline stage
    sp                     sequence parallelism
    overlap-reduce         overlap_grad_reduce
    overlap                overlap_grad_reduce and overlap_param_gather

The name of one process is `one`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import Parallel
from pretokenizer.config.yaml_config import ConfigError

SIZES = {
    "tp": "tensor_model_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "vpp": "virtual_pipeline_model_parallel_size",
    "first": "decoder_first_pipeline_num_layers",
    "last": "decoder_last_pipeline_num_layers",
}
"""Part of a layout's name that ends in a number -> setting with that number."""
SWITCHES = {
    "sp": {"sequence_parallel": True},
    "overlap": {"overlap_grad_reduce": True, "overlap_param_gather": True},
    "overlap-reduce": {"overlap_grad_reduce": True},
}
"""Part of a layout's name -> settings that it turns on."""
MOST_TP, MOST_PP, MOST_VPP, MOST_DP = 4, 4, 2, 2
"""Largest sizes of a layout that runs as processes of one machine."""


@dataclass(frozen=True)
class NamedLayout:
    """A parallel layout with its number of data-parallel ranks. It has a name such as tp2-dp4-sp."""

    parallel: Parallel
    dp: int = 1

    @classmethod
    def of(cls, name: str) -> NamedLayout:
        """Return the layout with this name. Raises ConfigError for a name that cannot be understood.

        >>> NamedLayout.of("tp2-dp4-sp").parallel.sequence_parallel
        True
        """
        settings: dict[str, Any] = {}
        dp = 1
        for part in [] if name == "one" else re.findall(r"overlap-reduce|[^-]+|^$", name):
            kind, size = part.rstrip("0123456789"), part.lstrip("abcdefghijklmnopqrstuvwxyz")
            if part in SWITCHES:
                settings |= SWITCHES[part]
            elif kind in (*SIZES, "dp") and size.isdigit() and int(size) > 0:
                settings |= {SIZES[kind]: int(size)} if kind in SIZES else {}
                dp = int(size) if kind == "dp" else dp
            else:
                raise ConfigError(
                    f"layout {name!r}: {part!r} is none of tpN, ppN, vppN, firstN, lastN, dpN, sp, overlap, "
                    "overlap-reduce; join the parts with dashes, as in tp2-pp2-sp"
                )
        return cls(Parallel(**settings), dp)

    def __str__(self) -> str:
        """Return the name of the layout.

        >>> str(NamedLayout(Parallel(pipeline_model_parallel_size=2, overlap_grad_reduce=True)))
        'pp2-overlap-reduce'
        """
        sizes = {kind: getattr(self.parallel, setting) for kind, setting in SIZES.items()} | {"dp": self.dp}
        parts = [f"{kind}{size}" for kind, size in sizes.items() if size and (size > 1 or kind in ("first", "last"))]
        parts += ["sp"] if self.parallel.sequence_parallel else []
        if self.parallel.overlap_grad_reduce:
            parts.append("overlap" if self.parallel.overlap_param_gather else "overlap-reduce")
        return "-".join(parts) or "one"

    @property
    def world_size(self) -> int:
        parallel = self.parallel
        return parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size * self.dp

    @property
    def ranks(self) -> ParallelLayout:
        """The layout as megatron_train.config.parallel_layout describes it."""
        return ParallelLayout.planned(self.parallel, self.world_size)

    def reduced(self, most_processes: int) -> NamedLayout:
        """Return this layout shrunk to at most `most_processes` processes, and to the sizes MOST_TP to MOST_DP.

        It has the same kinds of parallelism, unless `most_processes` is too small for that. Tensor-parallel ranks are
        given up before pipeline stages: a middle stage works differently from the first and the last one, while further
        tensor-parallel ranks work like the first two.
        """
        ranks = self.ranks
        tp, pp, dp = min(ranks.tp, MOST_TP), min(ranks.pp, MOST_PP), min(ranks.dp, MOST_DP)
        while tp * pp * dp > most_processes and max(tp, pp, dp) > 1:
            if tp > 2 or (pp <= 2 and dp == 1):
                tp = max(1, tp // 2)
            elif pp > 2 or dp == 1:
                pp = max(1, pp // 2)
            else:
                dp = 1
        vpp = min(ranks.vpp, MOST_VPP) if pp > 1 else 1
        first, last = (vpp if layers and pp > 1 else None for layers in (ranks.first_layers, ranks.last_layers))
        if first and last and pp == 2:
            last = 2 * vpp  # else both stages would be equal
        return NamedLayout(
            replace(
                self.parallel,
                tensor_model_parallel_size=tp,
                pipeline_model_parallel_size=pp,
                sequence_parallel=self.parallel.sequence_parallel and tp > 1,
                virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
                decoder_first_pipeline_num_layers=first,
                decoder_last_pipeline_num_layers=last,
            ),
            dp,
        )
