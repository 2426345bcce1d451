"""Compare six kinds of models with the results that `python -m benchmarks.gpu_parts.parity` recorded on a CPU.

The file recorded_cpu.json holds the fp32 loss, and a fingerprint of the logits and of every gradient. Weights and
tokens come from numpy's generators, so every device starts from the same numbers. Record again after a change of the
model's arithmetic; the diff of the file shows what changed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_parts.model_steps import Bench, batch_of, named_random
from benchmarks.gpu_parts.record import Record
from megatron_train.config.model_config import ModelConfig
from megatron_train.data.loader import DeviceBatch
from megatron_train.parallel.device import DEVICE_VARIABLE, uses_cuda
from megatron_train.parallel.distributed import seed_rank
from megatron_train.train_step import forward_backward

RECORDED = Path(__file__).with_name("recorded_cpu.json")
SETTINGS = {"seq_length": 96, "train_iters": 1}
ROWS = {"packed": [[40, 23, 30], [96]], "padded": [[96], [50]]}
"""Kind of micro-batch -> for each row, the lengths of its documents in positions."""
LLAMA = ModelConfig("llama", 2, 128, 192, 4, 500, 256, kv_channels=64)
NEOX = replace(
    LLAMA, family="gpt_neox", normalization="LayerNorm", gated_linear_unit=False, activation="gelu",
    add_bias_linear=True, rotary_percent=0.25, parallel_residual=True,
)  # fmt: skip
FALCON = replace(
    NEOX, family="falcon", add_bias_linear=False, rotary_percent=1.0, share_embeddings_and_output_weights=True
)
KINDS = {
    "llama": LLAMA,
    "llama, grouped queries": replace(LLAMA, num_query_groups=2),
    "gpt_neox": NEOX,
    "falcon 7b": replace(FALCON, num_query_groups=1, shared_norm=True),
    "falcon 40b": replace(FALCON, num_query_groups=2),
    "mistral, window": replace(LLAMA, num_query_groups=2, sliding_window=17),
}
LIMITS = {"fp32": (1e-5, 1e-4, 1e-4), "bf16": (2e-3, 5e-2, 1e-1)}
"""Precision -> largest relative differences of (loss, logits, gradients) from the fp32 results of a CPU."""
IN_16_BITS = "llama, grouped queries"
"""The kind of model that runs in bf16 even in a small report, and with dropout and recomputation."""
DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
Fingerprint = list[float]
"""The L2 norm of a tensor, and four sums of its elements with random signs."""


def run(record: Record, small: bool) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    for kind, rows in cases():
        for precision in LIMITS if kind == IN_16_BITS or not small else ("fp32",):
            bench = bench_of(kind, rows, {"bf16": precision == "bf16"})
            compare(record, f"{kind}, {rows}, {precision}", results(bench, rows), recorded[f"{kind}, {rows}"])
    for rows in ROWS:
        check_dropout_and_recomputation(record, rows)
        check_host_waits(record, rows)


def cases() -> list[tuple[str, str]]:
    return [(kind, rows) for kind in KINDS for rows in ROWS]


def bench_of(kind: str, rows: str, settings: dict[str, Any]) -> Bench:
    packing = {"packing": rows == "packed", "micro_batch_size": len(ROWS[rows])}
    bench = Bench.build(KINDS[kind], SETTINGS | packing | settings)
    bench.fill_weights()
    return bench


def results(bench: Bench, rows: str) -> dict[str, Any]:
    """Return the loss of one micro-batch, and the fingerprints of its logits and of each gradient.

    `rows` is a key of ROWS.
    """
    batch = batch_of(bench.model, bench.config, ROWS[rows])
    found = {"loss": backward(bench, batch)} | {"gradients": gradients(bench)}
    with torch.no_grad():
        logits = bench.chunks[0](batch.tokens, batch.position_ids, None, packed_seq_params=batch.packed)
    found["logits"] = fingerprint("logits", logits[..., : bench.model.vocab_size])
    return found


def backward(bench: Bench, batch: DeviceBatch) -> float:
    """Run the micro-batch forward and backward, and return its loss."""
    (output,) = forward_backward(bench.chunks, bench.optimizer, [batch])
    return float(output["loss"])


def gradients(bench: Bench) -> dict[str, Fingerprint]:
    """Return the fingerprint of each parameter's gradient, by the name that the parameter has in the model."""
    return {name: fingerprint(name, parameter.main_grad) for name, parameter in bench.named_parameters()}


def fingerprint(name: str, tensor: Tensor) -> Fingerprint:
    """Return the fingerprint of `tensor`, a few numbers that stand for all. The random signs depend on `name` only.

    The differences between the sums of two tensors are about as large as the norm of the tensors' difference.
    """
    values = tensor.detach().double().cpu().flatten()
    bits = np.unpackbits(np.frombuffer(named_random(name).bytes(values.numel()), np.uint8), count=4 * values.numel())
    sums = torch.from_numpy(bits.reshape(4, -1) * 2.0 - 1.0) @ values
    return [float(f"{x:.9g}") for x in (float(values.norm()), *sums.tolist())]


def apart(found: Fingerprint, expected: Fingerprint) -> float:
    """Estimate from two tensors' fingerprints the L2 norm of their difference, relative to the norm of `expected`."""
    squares = [(a - b) ** 2 for a, b in zip(found[1:], expected[1:], strict=True)]
    return math.sqrt(sum(squares) / len(squares)) / expected[0]


def compare(record: Record, name: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Record how far the results `found` differ from the `expected` ones, relatively: loss, logits and worst gradient.

    `name` ends with the precision, which decides the limits.
    """
    loss, logits, gradient = LIMITS[name.rpartition(", ")[2]]
    record.check(f"{name}: loss", abs(found["loss"] / expected["loss"] - 1), loss)
    record.check(f"{name}: logits", apart(found["logits"], expected["logits"]), logits)
    assert found["gradients"].keys() == expected["gradients"].keys()
    differences = {key: apart(value, expected["gradients"][key]) for key, value in found["gradients"].items()}
    worst = max(differences, key=lambda key: (math.isnan(differences[key]), differences[key]))
    record.check(f"{name}: gradients", differences[worst], gradient, of=worst)


def check_dropout_and_recomputation(record: Record, rows: str) -> None:
    """Record whether dropout repeats bitwise from one seed, and how far recomputed gradients differ from saved ones."""
    runs = {}
    for name, settings in {"first": DROPOUT, "again": DROPOUT, "recomputed": DROPOUT | RECOMPUTE}.items():
        bench = bench_of(IN_16_BITS, rows, settings)
        seed_rank(7)
        batch = batch_of(bench.model, bench.config, ROWS[rows])
        runs[name] = (backward(bench, batch), gradients(bench))
    (loss, first), (again, _), (recomputed, others) = (runs[name] for name in ("first", "again", "recomputed"))
    record.fact(f"dropout, {rows}: the same seed gives the same loss", loss == again, first=loss, second=again)
    record.check(f"recomputation, {rows}: loss", abs(recomputed / loss - 1), 1e-6)
    record.check(f"recomputation, {rows}: gradients", max(apart(others[key], first[key]) for key in first), 1e-5)


def check_host_waits(record: Record, rows: str) -> None:
    """Record whether a forward and backward pass runs without waiting for the GPU. Without a GPU, record nothing."""
    if not uses_cuda():
        return
    bench = bench_of(IN_16_BITS, rows, {"bf16": True})
    batch = batch_of(bench.model, bench.config, ROWS[rows])
    forward_backward(bench.chunks, bench.optimizer, [batch])
    message = ""
    with waits_are_errors():
        try:
            forward_backward(bench.chunks, bench.optimizer, [batch])
        except RuntimeError as error:
            message = str(error).partition("\n")[0]
    record.fact(f"no wait for the GPU in forward and backward, {rows}", not message, message=message or None)


@contextmanager
def waits_are_errors() -> Iterator[None]:
    """Make torch raise RuntimeError when the CPU waits for the GPU inside the `with` block."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def main() -> None:
    """Compute the results of every case on this machine's CPU, and write them to recorded_cpu.json."""
    os.environ[DEVICE_VARIABLE] = "cpu"
    found = {f"{kind}, {rows}": results(bench_of(kind, rows, {}), rows) for kind, rows in cases()}
    lines = (f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in found.items())
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
