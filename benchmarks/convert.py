"""Speed and memory of the converter beside `cp -r` and beside transformers, on a made Llama of a given size.

    python benchmarks/convert.py                             # a table: seconds, GB/s, peak memory; medians of 3 rounds
    python benchmarks/convert.py --size_gb 8 --rounds 1 --no_transformers

Every row moves the same bytes in a process of its own and ends with everything on the disk (fsync); a Python process
begins by importing its libraries, which a row of its own shows. Memory is the peak of RssAnon in /proc (pages of
mapped files, which the kernel can drop at any time, do not count) and of VmRSS (they do). GB are 10^9 bytes of
weights. The source of every row is read once before its clock starts, so that it comes from the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

import checkpoint_convert.__main__
import checkpoint_convert.convert
from checkpoint_convert.families import FAMILIES
from checkpoint_convert.huggingface.weights import SafetensorsWriter
from checkpoint_convert.mapping.checks import megatron_shapes
from checkpoint_convert.tensors.tensor import TensorInfo, shape_of
from megatron_train.config.model_config import ModelConfig
from pretokenizer.files.publish import fsync_path

TRANSFORMERS = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
model.save_pretrained(sys.argv[2], max_shard_size="2GB")
"""
VERIFY = """
import sys
from pathlib import Path
from checkpoint_convert.verify.verify import verify_weights
sys.exit(len(verify_weights(*map(Path, sys.argv[1:])).different))
"""
POLL_SECONDS = 0.02
COPY, BOTH = "cp -r, fsync", "transformers load + save"
OURS = ("from-hf", "to-hf")


class Row(NamedTuple):
    """One measurement of a process, or the medians of several. The peaks are bytes of memory."""

    seconds: float
    cpu_seconds: float
    peak_anonymous: float
    peak_resident: float


def main(words: list[str] | None = None) -> int:
    """Measure every row, print the table, and return the exit code. `words` (default: sys.argv) are the flags."""
    options = parse_arguments(words)
    measured: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(dir=options.work_dir, prefix="convert-benchmark-") as work:
        root = Path(work)
        num_bytes = make_model(root / "hf", options.size_gb)
        print(f"a made Llama of {num_bytes / 1e9:.2f} GB in bfloat16, {os.cpu_count()} CPU cores, {work}", flush=True)
        for number in range(options.rounds):
            for name, row in measure_round(root, options):
                measured.setdefault(name, []).append(row)
                print(f"  round {number + 1}, {name}: {row.seconds:.2f} s", flush=True)
    rows = {name: Row(*map(statistics.median, zip(*found, strict=True))) for name, found in measured.items()}
    print_table(rows, num_bytes)
    print_ratios(rows)
    return 0


def measure_round(root: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Yield (name, measurement) of each row of the table, measured once in the folder `root`.

    Results that no later row reads are deleted.
    """
    hf, copy, ckpt, out, both = (root / name for name in ("hf", "copy", "ckpt", "out", "both"))
    convert = forked if options.small else partial(started, sys.executable, "-m", "checkpoint_convert")
    python = partial(started, sys.executable, "-c")
    if not options.small:
        yield "import of the converter", measure(partial(python, "import checkpoint_convert.convert"))
    yield COPY, measure(partial(started, "cp", "-r", hf, copy), hf, copy)
    shutil.rmtree(copy)
    yield "from-hf", measure(partial(convert, "from-hf", hf, ckpt, "--no_verify"), hf, ckpt)
    yield "to-hf", measure(partial(convert, "to-hf", ckpt, out, "--no_verify"), ckpt, out)
    if not options.small:
        yield "verify (weights)", measure(partial(python, VERIFY, out, ckpt), out)
    shutil.rmtree(ckpt)
    shutil.rmtree(out)
    if not options.no_transformers:
        yield BOTH, measure(partial(python, TRANSFORMERS, hf, both), hf, both)
        shutil.rmtree(both)


class Process(NamedTuple):
    """A process that is being measured."""

    pid: int
    poll: Callable[[], int | None]
    """Returns the exit code, or None while the process runs."""


def started(*words: object) -> Process:
    """Start a command in a new process, and discard its standard output."""
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
    return Process(process.pid, process.poll)


def forked(*words: object) -> Process:
    """Start a command of the converter in a fork of this process, which has imported the converter already."""
    process = multiprocessing.get_context("fork").Process(target=_convert, args=([str(word) for word in words],))
    process.start()
    return Process(process.pid or 0, lambda: process.exitcode)


def _convert(words: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        sys.exit(checkpoint_convert.__main__.main(words))


def make_model(folder: Path, size_gb: float) -> int:
    """Write a Llama of about `size_gb` GB (10^9 bytes) as a Hugging Face folder. Return the bytes of its weights.

    The weights repeat one random block. The layers have the shape of Llama-2-7B's, or a sixteenth of the width for less
    than 1 GB.
    """
    width = 4096 if size_gb >= 1 else 256
    layer_bytes = 2 * (4 * width * width + 3 * width * (width * 43 // 16))
    model = ModelConfig(
        family="llama",
        num_layers=max(1, round((size_gb * 1e9 - 2 * 2 * 32000 * width) / layer_bytes)),
        hidden_size=width,
        ffn_hidden_size=width * 43 // 16,
        num_attention_heads=width // 128,
        vocab_size=32000,
        max_position_embeddings=4096,
    )
    shapes, infos = megatron_shapes(model), {}
    for rule in FAMILIES["llama"].table(model).rules:
        whole = torch.empty(shapes[".".join(w for w in rule.megatron.split(".") if not w.isdigit())], device="meta")
        for name, parts in zip(rule.others, rule.to_other(whole, model), strict=True):
            infos[name] = TensorInfo(shape_of(parts), torch.bfloat16)
    folder.mkdir()
    block = torch.randn(1 << 24).mul_(0.02).bfloat16()
    writer = SafetensorsWriter(folder, infos, 2_000_000_000)
    for name, info in infos.items():
        count = torch.Size(info.shape).numel()
        writer.write(name, info, [block] * (count // block.numel()) + [block[: count % block.numel()]])
    writer.close()
    config = {**FAMILIES["llama"].to_hf_config(model), "vocab_size": model.vocab_size, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return sum(info.num_bytes for info in infos.values())


def measure(start: Callable[[], Process], source: Path | None = None, output: Path | None = None) -> Row:
    """Measure the process that `start` starts, and the flush of the folder `output` to the disk.

    The files of `source` are read before the clock starts. Raises SystemExit when the process fails.
    """
    if source is not None:
        read_all(source)
    begun, used = time.perf_counter(), os.times()
    process = start()
    anonymous = resident = 0
    while (code := process.poll()) is None:
        anonymous = max(anonymous, status_bytes(process.pid, "RssAnon"))
        resident = max(resident, status_bytes(process.pid, "VmRSS"))
        time.sleep(POLL_SECONDS)
    if code:
        raise SystemExit(f"error: exit code {code} of {start}")
    for path in output.rglob("*") if output else ():
        fsync_path(path)
    now = os.times()
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    return Row(time.perf_counter() - begun, cpu, anonymous, resident)


def read_all(folder: Path) -> None:
    """Read all files of a folder once so that they are in the page cache."""
    buffer = bytearray(1 << 22)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def status_bytes(pid: int, field: str) -> int:
    """Return a memory field of /proc/PID/status, such as VmRSS, in bytes, or 0 when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def print_table(rows: dict[str, Row], num_bytes: int) -> None:
    print("\n| | seconds | CPU seconds | GB/s | peak RssAnon, MB | peak RSS, MB |\n|---|---|---|---|---|---|")
    for name, row in rows.items():
        speed = "" if name.startswith("import") else f"{num_bytes / 1e9 / row.seconds:.2f}"
        memory = f"{row.peak_anonymous / 1e6:.0f} | {row.peak_resident / 1e6:.0f}"
        print(f"| {name} | {row.seconds:.2f} | {row.cpu_seconds:.2f} | {speed} | {memory} |")


def print_ratios(rows: dict[str, Row]) -> None:
    """Print the converter's speed and memory relative to `cp -r` and transformers, each beside the wanted ratio."""
    print()
    for name in OURS:
        ours, both = rows[name], rows.get(BOTH)
        words = [f"{rows[COPY].seconds / ours.seconds:.2f} x the speed of cp (0.5)"]
        if both:
            words.append(f"{both.seconds / ours.seconds:.2f} x that of transformers (1.5)")
            words.append(f"at {ours.peak_resident / both.peak_resident:.2f} x its memory, RSS (0.5)")
            words.append(f"RssAnon {ours.peak_anonymous / both.peak_anonymous:.2f} x")
        print(f"{name}: {', '.join(words)}")


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of the converter beside cp and transformers.")
    parser.add_argument("--size_gb", type=float, default=4.0, help="default: 4")
    parser.add_argument("--rounds", type=int, default=3, help="the table shows medians (default: 3)")
    parser.add_argument("--work_dir", type=Path, default=None, help="where to write (default: the system's folder)")
    parser.add_argument("--no_transformers", action="store_true", help="leave out the row that needs the whole model")
    parser.add_argument("--small", action="store_true", help="one round of 20 MB in forked processes: a trial")
    options = parser.parse_args(words)
    if options.small:
        options.size_gb, options.rounds, options.no_transformers = 0.02, 1, True
    return options


if __name__ == "__main__":
    sys.exit(main())
