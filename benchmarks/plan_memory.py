"""Compare measured peaks of GPU memory with the estimates of `plan`, one row per configuration.

    python benchmarks/plan_memory.py                 needs a CUDA device with about 60 GiB free; a minute
    python benchmarks/plan_memory.py --small         small shapes, to try the program; without a GPU nothing is measured

benchmarks/gpu_parts/memory.py has the configurations; `make gpu-report` measures them too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu_parts.memory import peaks
from megatron_train.parallel.device import install, uses_cuda
from megatron_train.parallel.distributed import freeze_imports


def main(words: list[str] | None = None) -> int:
    """Print planned and measured peaks, and return the exit code. `words` (default: sys.argv) are the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="two narrow layers, 1,000 token ids, 64 tokens: tries the program"
    )
    small = parser.parse_args(words).small
    install()
    freeze_imports()  # the program collects garbage for each row
    if not (small or uses_cuda()):
        print("error: needs a CUDA device; --small tries the program without one", file=sys.stderr)
        return 2
    print(f"{'model':<20} {'layers':>6}  {'settings':<60} {'planned':>8} {'measured':>8}  {'off':>6}")
    for peak in peaks(small):
        measured = f"{peak.measured:8.2f}" if peak.measured else f"{'-':>8}"
        off = f"{peak.planned / peak.measured - 1:+.1%}" if peak.measured else "-"
        print(
            f"{peak.model:<20} {peak.layers:>6}  {peak.settings:<60.60} {peak.planned:8.2f} {measured}  {off:>6}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
