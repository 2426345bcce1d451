"""Speed and memory of the converter beside `cp -r` and beside transformers, on a made Llama of a given size.

    python benchmarks/convert.py --size_gb 2                 # a table: seconds, GB/s, peak memory
    python benchmarks/convert.py --size_gb 8 --no_transformers

Every row moves the same bytes in a process of its own and ends with everything on the disk (fsync). Memory is the peak
of RssAnon in /proc (pages of mapped files, which the kernel can drop at any time, do not count) and of VmRSS (they do).
GB are 10^9 bytes of weights. The page cache is warm in every row: the source has just been written or read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.hf_io import SafetensorsWriter
from checkpoint_convert.plan import megatron_shapes
from checkpoint_convert.tensors import TensorInfo
from megatron_train.model_config import ModelConfig

SYNC = """
import os, sys
for root, _, files in os.walk(sys.argv[1]):
    for file in files:
        os.fsync(os.open(os.path.join(root, file), os.O_RDONLY))
"""
TRANSFORMERS = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
model.save_pretrained(sys.argv[2], max_shard_size="2GB")
"""
POLL_SECONDS = 0.02


class Row(NamedTuple):
    name: str
    seconds: float
    cpu_seconds: float
    peak_anonymous: int
    peak_resident: int


def main() -> int:
    options = parse_arguments()
    with tempfile.TemporaryDirectory(dir=options.work_dir, prefix="convert-benchmark-") as work:
        root = Path(work)
        num_bytes = make_model(root / "hf", options.size_gb)
        print(f"a made Llama of {num_bytes / 1e9:.2f} GB in bfloat16, {os.cpu_count()} CPU cores, {work}", flush=True)
        rows = [measure("cp -r, fsync", ["cp", "-r", root / "hf", root / "copy"], root / "copy")]
        shutil.rmtree(root / "copy")
        convert = [sys.executable, "-m", "checkpoint_convert"]
        rows.append(measure("from-hf", [*convert, "from-hf", root / "hf", root / "ckpt", "--no_verify"], root / "ckpt"))
        rows.append(measure("to-hf", [*convert, "to-hf", root / "ckpt", root / "out", "--no_verify"], root / "out"))
        weights_only = "from checkpoint_convert.verify import *; import sys; verify_weights(*map(Path, sys.argv[1:]))"
        rows.append(measure("verify (weights)", [sys.executable, "-c", weights_only, root / "out", root / "ckpt"]))
        if not options.no_transformers:
            shutil.rmtree(root / "ckpt")
            shutil.rmtree(root / "out")
            command = [sys.executable, "-c", TRANSFORMERS, root / "hf", root / "hf2"]
            rows.append(measure("transformers load + save", command, root / "hf2"))
    print_table(rows, num_bytes)
    return 0


def make_model(folder: Path, size_gb: float) -> int:
    """A Llama of about that size: one random block of numbers, repeated. Returns its bytes of weights."""
    layer_bytes = 2 * 202_383_360  # of Llama-2-7B
    model = ModelConfig(
        family="llama",
        num_layers=max(1, round((size_gb * 1e9 - 2 * 2 * 32000 * 4096) / layer_bytes)),
        hidden_size=4096,
        ffn_hidden_size=11008,
        num_attention_heads=32,
        vocab_size=32000,
        max_position_embeddings=4096,
    )
    shapes, infos = megatron_shapes(model), {}
    for rule in FAMILIES["llama"].table(model).rules:
        whole = torch.empty(shapes[".".join(w for w in rule.megatron.split(".") if not w.isdigit())], device="meta")
        for name, part in zip(rule.others, rule.to_other(whole, model), strict=True):
            infos[name] = TensorInfo(tuple(part.shape), torch.bfloat16)
    folder.mkdir()
    block = torch.randn(1 << 24).mul_(0.02).bfloat16()
    writer = SafetensorsWriter(folder, infos, 2_000_000_000)
    for name, info in infos.items():
        count = torch.Size(info.shape).numel()
        writer.write(name, block.repeat(-(-count // block.numel()))[:count].view(info.shape))
    writer.close()
    config = {**FAMILIES["llama"].to_hf_config(model), "vocab_size": model.vocab_size, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return sum(info.num_bytes for info in infos.values())


def measure(name: str, command: list[object], output: Path | None = None) -> Row:
    """Runs a command, then flushes its output to the disk; both count."""
    start, used = time.perf_counter(), os.times()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    anonymous = resident = 0
    while process.poll() is None:
        anonymous = max(anonymous, status_bytes(process.pid, "RssAnon"))
        resident = max(resident, status_bytes(process.pid, "VmRSS"))
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"{name}: exit code {process.returncode}: {' '.join(str(word) for word in command)}")
    if output is not None:
        subprocess.run([sys.executable, "-c", SYNC, str(output)], check=True)
    now = os.times()
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    row = Row(name, time.perf_counter() - start, cpu, anonymous, resident)
    print(f"  {row.name}: {row.seconds:.1f} s", flush=True)
    return row


def status_bytes(pid: int, field: str) -> int:
    """A field of /proc/PID/status in bytes; 0 when the process has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def print_table(rows: list[Row], num_bytes: int) -> None:
    copy = rows[0].seconds
    print(
        "\n| | seconds | CPU seconds | GB/s | x cp | peak RssAnon, MB | peak RSS, MB |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        speed = num_bytes / 1e9 / row.seconds
        times = f"{row.seconds:.1f} | {row.cpu_seconds:.1f} | {speed:.2f} | {copy / row.seconds:.2f}"
        print(f"| {row.name} | {times} | {row.peak_anonymous / 1e6:.0f} | {row.peak_resident / 1e6:.0f} |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of the converter beside cp and transformers.")
    parser.add_argument("--size_gb", type=float, default=2.0)
    parser.add_argument("--work_dir", type=Path, default=None, help="where to write (default: the system's folder)")
    parser.add_argument("--no_transformers", action="store_true", help="leave out the row that needs the whole model")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
