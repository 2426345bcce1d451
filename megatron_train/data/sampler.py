"""Which samples a rank reads in an iteration: a pure function, so that resuming and changing the layout need no state.

A global batch is `global_batch_size` consecutive samples whatever the layout; micro-batch m takes the next
micro_batch_size x dp of them, of which data-parallel rank r reads the r-th run of micro_batch_size:

    >>> micro_batch_indices(consumed_samples=8, num_microbatches=2, micro_batch_size=2, dp_rank=1, dp_size=2)
    [range(10, 12), range(14, 16)]
"""

from __future__ import annotations


def micro_batch_indices(
    consumed_samples: int, num_microbatches: int, micro_batch_size: int, dp_rank: int, dp_size: int
) -> list[range]:
    """One range of sample indices per micro-batch of this rank."""
    width = micro_batch_size * dp_size
    starts = (consumed_samples + m * width + dp_rank * micro_batch_size for m in range(num_microbatches))
    return [range(start, start + micro_batch_size) for start in starts]
