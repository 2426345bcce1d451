"""Choose the samples that a rank reads in an iteration. It is a pure function, so resuming needs no stored state.

A global batch is `global_batch_size` consecutive samples in every layout. Micro-batch m takes the next
micro_batch_size x dp of them, and data-parallel rank r reads the r-th micro_batch_size of these:

    >>> micro_batch_indices(consumed_samples=8, num_microbatches=2, micro_batch_size=2, dp_rank=1, dp_size=2)
    [range(10, 12), range(14, 16)]
"""

from __future__ import annotations


def micro_batch_indices(
    consumed_samples: int, num_microbatches: int, micro_batch_size: int, dp_rank: int, dp_size: int
) -> list[range]:
    """Return a range of sample indices for each micro-batch of one rank, in the iteration after `consumed_samples`."""
    width = micro_batch_size * dp_size
    starts = (consumed_samples + m * width + dp_rank * micro_batch_size for m in range(num_microbatches))
    return [range(start, start + micro_batch_size) for start in starts]
