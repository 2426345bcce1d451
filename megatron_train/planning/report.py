"""Format a plan as text: memory, recomputation, epochs, hours, disk, and the ranked layouts of --suggest."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from megatron_train.config.flags import CommandLine
from megatron_train.planning.devices import SIZES
from megatron_train.planning.memory import StageMemory, stage_memory, weight_bytes
from megatron_train.planning.micro_batch import advise_micro_batch
from megatron_train.planning.plan import Plan
from megatron_train.planning.suggest import RESERVE, Suggestion, suggest
from megatron_train.planning.workload import bubble_fraction

GIB = 2**30
RECOMPUTATIONS: tuple[tuple[Literal["selective", "full"] | None, str], ...] = (
    (None, "none"),
    ("selective", "about 2 %"),
    ("full", "about 33 %"),
)
"""Each value of recompute_granularity, and the extra computing time that it costs."""


def report(plan: Plan) -> str:
    """Return the text that `plan` prints about a run: model, memory, recomputation, work and disk."""
    parts = [model_lines(plan), memory_table(plan), recompute_table(plan), work_lines(plan), disk_lines(plan)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def model_lines(plan: Plan) -> list[str]:
    """Return the lines about the model, the parallel layout, the global batch and the pipeline bubble."""
    model, layout, config = plan.model, plan.layout, plan.config
    published = model.num_parameters(model.source_vocab_size)
    batches = layout.num_microbatches(config.batch)
    bubble = bubble_fraction(layout.pp, layout.vpp, batches)
    return [
        f"model        {plan.model_source}: {model.family}, {model.num_layers} layers, hidden {model.hidden_size}",
        f"parameters   {published:,} as published (vocabulary {model.source_vocab_size or model.vocab_size:,}); "
        f"{model.num_parameters(model.padded_vocab):,} allocated ({model.vocab_size:,} token ids in "
        f"{model.padded_vocab:,} rows)",
        f"layout       {layout.world_size} GPUs = TP {layout.tp} x PP {layout.pp} x DP {layout.dp}"
        + (f", {layout.vpp} chunks a stage" if layout.vpp > 1 else "")
        + (", sequence parallel" if config.parallel.sequence_parallel and layout.tp > 1 else "")
        + (f", {layout.describe_split(model.num_layers)} layers a stage" if layout.pp > 1 else ""),
        f"batch        {plan.work.global_batch_size} rows of up to {config.data.seq_length:,} tokens = "
        f"{config.batch.micro_batch_size} per micro-batch x {batches} micro-batches x {layout.dp} data-parallel ranks",
        f"bubble       {bubble:.1%} of a step: (p - 1) / (m v + p - 1) with p = {layout.pp}, m = {batches}, "
        f"v = {layout.vpp}",
    ]


def memory_table(plan: Plan) -> list[str]:
    """Return the lines of the table of GPU memory in GiB per rank, with one row per pipeline stage."""
    head = ("stage", "layers", "parameters", "weights", "gradients", "optimizer", "activations", "logits", "buffers")
    rows = [
        (
            str(stage.stage),
            str(stage.layers),
            f"{stage.parameters:,}",
            *(f"{part / GIB:.2f}" for part in _parts(stage)),
            f"{stage.total / GIB:.2f}",
            *("yes" if stage.total / GIB <= RESERVE * size else "no" for size in SIZES.values()),
        )
        for stage in plan.stages
    ]
    precision = {2: "bf16 or fp16", 4: "fp32"}[weight_bytes(plan.config)]
    return [
        f"GiB per rank: {precision} weights, fp32 gradients, optimizer state over {plan.layout.dp} ranks.",
        f"These are exact; the rest is estimated. A plan fits if its peak is at most {RESERVE:.0%} of the memory.",
        *_aligned([(*head, "peak", *(f"fits {label}" for label in SIZES)), *rows]),
    ]


def _parts(stage: StageMemory) -> tuple[int, ...]:
    return (stage.weights, stage.gradients, stage.optimizer, stage.activations, stage.logits, stage.buffers)


def recompute_table(plan: Plan) -> list[str]:
    """Return the lines of the table of peak memory on the fullest rank, with one row per choice of recomputation."""
    rows: list[tuple[str, ...]] = [("recompute", "activations", "peak", "extra computing")]
    for granularity, extra in RECOMPUTATIONS:
        full = granularity == "full"
        settings = replace(
            plan.config.model,
            recompute_granularity=granularity,
            recompute_method="uniform" if full else None,
            recompute_num_layers=1 if full else None,
        )
        config = replace(plan.config, model=settings)
        stages = [stage_memory(plan.model, config, plan.layout, stage) for stage in range(plan.layout.pp)]
        worst = max(stages, key=lambda stage: stage.total)
        chosen = " *" if granularity == plan.config.model.recompute_granularity else ""
        name = (granularity or "none") + chosen
        rows.append((name, f"{worst.activations / GIB:.2f}", f"{worst.total / GIB:.2f}", extra))
    return ["GiB of the fullest rank by recomputation (* = this plan)", *_aligned(rows)]


def work_lines(plan: Plan) -> list[str]:
    """Return the lines about the data, the micro-batch size, and the run's iterations, tokens, FLOPs and time."""
    work, facts, device, world = plan.work, plan.facts, plan.device, plan.layout.world_size
    seconds = work.flops_per_iteration / (world * device.peak * plan.mfu)
    hours = seconds * work.iterations / 3600
    lines = [data_line(plan)]
    if work.epochs is not None and facts:
        packed = f" in {work.rows_per_epoch:,.0f} packed rows" if plan.config.data.packing else ""
        epochs = f" = {work.epochs:.4g} epochs of {facts.documents:,} documents{packed}"
    else:
        epochs = ""
    return [
        *lines,
        micro_batch_line(plan),
        f"iterations   {work.iterations:,}{epochs}",
        f"tokens       {work.tokens_per_iteration:,.0f} per iteration in {work.positions_per_iteration:,.0f} computed "
        f"positions ({work.useful:.0%} useful), {work.tokens_per_iteration * work.iterations:.3g} in all",
        f"FLOPs        {work.flops_per_iteration:.3g} per iteration, "
        f"{work.flops_per_iteration * work.iterations:.3g} in all",
        f"time         {seconds:.2f} s per iteration, {hours:,.1f} h = {hours * world:,.0f} GPU hours on {world} "
        f"{device.name} at {plan.mfu:.0%} of the peak (bubble and messages included in that share)",
    ]


def micro_batch_line(plan: Plan) -> str:
    """Return the line with the advice about --micro_batch_size: the fastest size of those that fit on the GPU."""
    own, device = plan.config.batch.micro_batch_size, plan.device
    advice = advise_micro_batch(plan.config, plan.model, plan.facts, plan.layout, device, plan.mfu)
    if advice is None:
        return f"micro-batch  no size fits on {device.name}; see --suggest"
    line = (
        f"micro-batch  {advice.micro_batch_size} is the fastest size that fits on {device.name} ({advice.gib:.0f} of "
    )
    line += f"{device.memory:.0f} GiB, {advice.seconds:.2f} s per iteration)"
    if advice.micro_batch_size == own:
        return f"{line}: this plan has it"
    return f"{line}: give --micro_batch_size {advice.micro_batch_size} in place of {own}"


def data_line(plan: Plan) -> str:
    """Return the line about the number and mean length of the training documents, or the advice to give them."""
    facts = plan.facts
    if facts is None:
        return (
            "data         unknown: every position counts as a token and epochs are left out; give --num_documents and "
            "--num_document_tokens, or the shards"
        )
    known = facts.mean_tokens == facts.mean_tokens
    mean = f" of {facts.mean_tokens:,.1f} tokens on average" if known else ", their lengths not known"
    return f"data         {facts.documents:,} documents to train on{mean} ({facts.source})"


def disk_lines(plan: Plan) -> list[str]:
    """Return the lines about the size of one checkpoint, the disk that all of them need, and host memory in a save.

    A checkpoint holds the weights, their fp32 copies and the two Adam moments.
    """
    size = weight_bytes(plan.config)
    parameters = plan.model.num_parameters(plan.model.padded_vocab)
    one = parameters * (size + 12)
    settings, iterations = plan.config.checkpoint, plan.work.iterations
    if settings.save is None:
        return [f"checkpoints  {one / 1e9:,.1f} GB each with optimizer state; --save is not given, so none is written"]
    every = settings.save_interval or iterations
    written = -(-iterations // every)
    kept = min(written, settings.save_total_limit or written)
    extra = " and one more while the next is written" if settings.save_total_limit and written > kept else ""
    total = one * (kept + bool(extra))
    saving, loading = max(stage.saving for stage in plan.stages), max(stage.loading for stage in plan.stages)
    return [
        f"checkpoints  {one / 1e9:,.1f} GB each ({parameters * size / 1e9:,.1f} GB weights, "
        f"{parameters * 12 / 1e9:,.1f} GB optimizer)",
        f"disk         {total / 1e12:,.2f} TB: {written} saves, every {every:,} iterations and at the end; {kept} "
        f"kept{extra}",
        f"host memory  {saving / 1e9:,.1f} GB per rank besides to save a checkpoint, "
        f"{loading / 1e9:,.1f} GB to load one",
    ]


def suggestions(command: CommandLine, plan: Plan) -> str:
    """Return the table of at most 12 parallel layouts that fit on the GPUs, the fastest first, for --suggest."""
    found = suggest(command, plan.model, plan.facts, plan.layout.world_size, plan.device, plan.mfu)
    title = f"\nlayouts that fit on {plan.layout.world_size} {plan.device.name}, by estimated seconds per iteration"
    if not found:
        return f"{title}: none; use more GPUs, or GPUs with more memory"
    head = ("TP", "PP", "VPP", "DP", "layers", "micro-batch", "recompute", "s/iteration", "why")
    rows: list[tuple[str, ...]] = [head]
    rows += [
        (
            *(str(size) for size in (one.layout.tp, one.layout.pp, one.layout.vpp, one.layout.dp)),
            one.layout.describe_split(plan.model.num_layers),
            str(one.micro_batch_size),
            one.recompute,
            f"{one.seconds:.2f}",
            one.reason,
        )
        for one in found[:12]
    ]
    return "\n".join([title, *_aligned(rows), *_uneven_note(found[:12])])


def _uneven_note(found: list[Suggestion]) -> list[str]:
    if all(one.layout.first_layers is None for one in found):
        return []
    return [
        "  layers F|B|L: --decoder_first_pipeline_num_layers F and --decoder_last_pipeline_num_layers L; the stages "
        "between them have B"
    ]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return one line per table row, indented; the last column is aligned to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return ["  " + "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths)), row[-1]]) for row in rows]
