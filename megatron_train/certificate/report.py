"""The verdict of a parity certificate, its table, and the contents of parity.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from megatron_train.certificate.comparison import Difference, Worst
from megatron_train.certificate.layouts import NamedLayout
from megatron_train.certificate.miniature import ITERATIONS
from megatron_train.certificate.plan import Certificate
from megatron_train.certificate.sample import WINDOWS


@dataclass(frozen=True)
class Tolerance:
    """The largest relative differences that count as equal. None: not compared."""

    loss: float
    grad_norm: float
    gradient: float
    update: float | None


EXACT = Tolerance(loss=1e-5, grad_norm=1e-5, gradient=1e-5, update=1e-5)
ROUNDED = Tolerance(loss=5e-3, grad_norm=5e-2, gradient=2e-1, update=None)
"""Each layout rounds 16-bit numbers in a different order. Updates are not compared, because they are smaller than the
spacing of 16-bit weights."""
SHOWN_SIZES = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "vocab_size")
TOLERANCES = {"fp32": EXACT, "bf16": ROUNDED, "fp16": ROUNDED}


@dataclass(frozen=True)
class Result:
    """The comparison of a run in a parallel layout with the run in one process."""

    layout: NamedLayout
    precision: str
    difference: Difference

    def failures(self) -> list[str]:
        """Return a phrase for each difference that is too large; an empty list when the run is equal."""
        difference, tolerance, found = self.difference, TOLERANCES[self.precision], []
        compared = {
            "the loss": (difference.loss, tolerance.loss),
            "the gradient norm": (difference.grad_norm, tolerance.grad_norm),
            "a gradient": (difference.gradient, tolerance.gradient),
            "an update": (difference.update, tolerance.update),
        }
        for kind, (worst, allowed) in compared.items():
            if allowed is not None and not worst.relative <= allowed:
                found.append(f"{kind} differs by {describe(worst)}, allowed {allowed:g}")
        if difference.copies_apart:
            found.append(f"ranks that hold the same tensor disagree by {difference.copies_apart:.1e}, allowed 0")
        if difference.num_applied < 0:
            found.append("one process and the layout skip different updates")
        elif difference.num_applied == 0:
            found.append("every update was skipped, so nothing was compared")
        return found

    def record(self) -> dict[str, Any]:
        """Return the result as an entry of parity.json, with the differences and whether they are small enough."""
        record = {"layout": str(self.layout), "precision": self.precision, **asdict(self.difference)}
        return record | {"equal": not self.failures(), "failures": self.failures()}


def describe(worst: Worst) -> str:
    """Return a difference with its place, such as `3.7e-01 (decoder.final_layernorm.weight, iteration 1)`."""
    place = [worst.name] if worst.name else []
    place += [f"iteration {worst.iteration}"] if worst.iteration else []
    return f"{worst.relative:.1e}" + (f" ({', '.join(place)})" if place else "")


def table(results: list[Result]) -> str:
    """Return a table with one line for each result: relative differences, verdict, parameter of the worst gradient."""
    heads = ("layout", "precision", "loss", "grad norm", "gradient", "update", "verdict", "worst gradient")
    rows: list[tuple[str, ...]] = [heads]
    for result in results:
        each = result.difference
        update = f"{each.update.relative:.1e}" if TOLERANCES[result.precision].update is not None else "-"
        numbers = [f"{worst.relative:.1e}" for worst in (each.loss, each.grad_norm, each.gradient)]
        verdict = "NOT EQUAL" if result.failures() else "equal"
        rows.append((str(result.layout), result.precision, *numbers, update, verdict, each.gradient.name))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def verdict(results: list[Result]) -> list[str]:
    """Return the verdict in plain sentences: one for each result that is not equal, or a single one if all are."""
    failed = [result for result in results if result.failures()]
    if failed:
        return [
            f"NOT EQUAL: {result.layout} in {result.precision} does not train as one process does: "
            + "; ".join(result.failures())
            for result in failed
        ]
    exact = [result.difference for result in results if result.precision == "fp32"]
    worst = max(each.relative for run in exact for each in (run.loss, run.grad_norm, run.gradient, run.update))
    layouts = ", ".join(dict.fromkeys(str(result.layout) for result in results))
    return [
        f"EQUAL: {layouts} trains as one process does: every loss, gradient norm, gradient and update of {ITERATIONS} "
        f"iterations agrees in fp32; the largest relative difference is {worst:.1e}, allowed {EXACT.gradient:g}"
    ]


def announcement(certificate: Certificate) -> list[str]:
    """Return lines that say what the certificate runs in place of the user's run: layouts, model, data and settings."""
    model, small = certificate.model, certificate.small
    lines = [
        f"{pair.asked} ({pair.asked.world_size} ranks) is reduced to {pair.small} ({pair.small.world_size} processes)"
        for pair in certificate.pairs
        if pair.asked != pair.small
    ]
    changes = [
        f"{name} {getattr(model, name)} -> {getattr(small, name)}"
        for name in (*SHOWN_SIZES, "sliding_window")
        if getattr(model, name) != getattr(small, name)
    ]
    lines.append(f"{model.family} with random weights, and every option of the architecture; " + ", ".join(changes))
    batch, data = certificate.references["fp32"].batch, certificate.references["fp32"].data
    lines.append(
        f"data: {certificate.num_documents} of your documents, cut to {min(WINDOWS)} to {max(WINDOWS)} tokens; rows of "
        f"{data.seq_length} tokens{', packed' if data.packing else ''}; {batch.train_iters} iterations of "
        f"{batch.global_batch_size} rows in micro-batches of {batch.micro_batch_size}"
    )
    lines.append(
        "AdamW with eps 1 and a constant learning rate, so that an update shows a wrong factor of its gradient"
    )
    return lines


def not_shown(certificate: Certificate) -> list[str]:
    """Return a list of one sentence, which says what the certificate does not show."""
    settings = certificate.command.config.model
    missing = ["other sizes than those above", "the kernels and NCCL of a GPU", "faults that one process has, too"]
    if all(pair.small.dp == 1 for pair in certificate.pairs):
        missing.append("data parallelism (--world_size N adds it)")
    if settings.hidden_dropout or settings.attention_dropout or settings.embedding_dropout:
        missing.append("dropout, which is off because its random numbers differ between layouts")
    if settings.neftune_noise_alpha:
        missing.append("NEFTune noise, which is off for the same reason")
    if settings.transformer_impl != "local":
        missing.append("layers of Transformer Engine and FP8, in place of which torch's layers run")
    return ["not shown: " + "; ".join(missing)]


def report_record(certificate: Certificate, results: list[Result]) -> dict[str, Any]:
    """Return the contents of parity.json: the verdict, what was run and not shown, and every result."""
    return {
        "equal": not any(result.failures() for result in results),
        "verdict": verdict(results),
        "shown_in": announcement(certificate),
        "not_shown": not_shown(certificate),
        "iterations": ITERATIONS,
        "layouts": [
            {"asked": str(pair.asked), "ranks": pair.asked.world_size, "run": str(pair.small)}
            for pair in certificate.pairs
        ],
        "model": asdict(certificate.small),
        "tolerances": {precision: asdict(TOLERANCES[precision]) for precision in certificate.references},
        "results": [result.record() for result in results],
    }
