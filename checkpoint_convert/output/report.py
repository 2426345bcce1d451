"""Print the output of a conversion: a progress bar in bytes, warnings, and closing lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from checkpoint_convert.tensors.tensor import (
    ConvertError,
    Parts,
    TensorInfo,
    TensorSink,
    blocks_of,
    dtype_name,
    human_bytes,
    is_finite,
    overflows,
    shape_of,
)

MAX_NAMED = 8


@dataclass
class Report:
    """Counts of the tensors that a conversion wrote, and the names of omitted and non-finite tensors."""

    folder: Path
    num_tensors: int = 0
    num_bytes: int = 0
    dtype: torch.dtype = torch.float32
    vocabulary: str = ""
    """Numbers of vocabulary rows as text, such as `32,000 rows of the source, padded to 32,128`."""
    dropped: list[str] = field(default_factory=list)
    """Source tensors that were left out because they are not weights (rotary tables, masks, a tied head's copy)."""
    not_finite: list[str] = field(default_factory=list)

    def write(self, sink: TensorSink, name: str, parts: Parts, dtype: torch.dtype) -> None:
        """Write one tensor to `sink` in `dtype` and count it.

        A tensor with NaN or infinity is written as it is, and its name is added to `not_finite`. Raises ConvertError
        when a finite number overflows in `dtype`.
        """
        info = TensorInfo(shape_of(parts), dtype)
        sink.write(name, info, self._watched(name, parts, dtype))
        self.num_tensors += 1
        self.num_bytes += info.num_bytes

    def _watched(self, name: str, parts: Parts, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        is_sound = True
        for block in blocks_of(parts):
            rounded = block.to(dtype)
            is_sound = is_sound and is_finite(rounded)
            if not is_sound and overflows(block, rounded):
                wider = "bf16 or fp32" if dtype == torch.float16 else "fp32"
                raise ConvertError(f"{name}: has numbers too large for {dtype_name(dtype)}; use --dtype {wider}")
            yield rounded
        if not is_sound:
            self.not_finite.append(name)

    def lines(self) -> list[str]:
        """Return the lines to print after a conversion: its folder, tensor count, vocabulary rows, omitted tensors."""
        found = [
            f"wrote {self.folder}",
            f"  {self.num_tensors:,} tensors, {human_bytes(self.num_bytes)} in {dtype_name(self.dtype)}",
            f"  vocabulary: {self.vocabulary}",
        ]
        if self.dropped:
            found.append(f"  left out because they are not weights: {named(self.dropped)}")
        return found


def progress(infos: Mapping[str, TensorInfo], title: str) -> tqdm:
    """Return a progress bar on stderr over the bytes of the tensors `infos`. It shows only on a terminal."""
    total = sum(info.num_bytes for info in infos.values())
    return tqdm(total=total, unit="B", unit_scale=True, desc=title, disable=not sys.stderr.isatty())


def warn(message: str) -> None:
    """Print a warning as one line on stderr."""
    print(f"warning: {message}", file=sys.stderr)


def warn_of_not_finite(report: Report) -> None:
    """Warn about written tensors that contain NaN or infinity."""
    if report.not_finite:
        warn(f"{len(report.not_finite)} tensors contain NaN or infinity: {named(report.not_finite)}")


def warn_of_rounding(infos: Mapping[str, TensorInfo], dtype: torch.dtype) -> None:
    """Warn about tensors that lose bits in `dtype`, which was chosen because most tensors have it."""
    rounded = [name for name, info in infos.items() if torch.promote_types(info.dtype, dtype) != dtype]
    if rounded:
        found = f"{len(rounded)} tensors are rounded to {dtype_name(dtype)}, the dtype of most tensors"
        warn(f"{found} (--dtype fp32 keeps every bit): {named(rounded)}")


def named(names: Sequence[str]) -> str:
    """Return the first MAX_NAMED names as text with commas, followed by the number of the others."""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
