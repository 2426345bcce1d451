"""The training run: build, loop, report. Read this first.

    torchrun --nproc_per_node 2 -m megatron_train --config configs/train/demo_stage1.yaml

The loop reads top to bottom in `run`; everything it calls is named for what it does and lives in the folder of that
topic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_train.checkpoint.resume import find_start, load_model_config
from megatron_train.checkpoint.save_load import load_checkpoint
from megatron_train.checkpoint.saver import CheckpointSaver
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.flags import CommandLine, config_table
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.config.validate import (
    LOSS_ROLES,
    describe_batch,
    describe_choices,
    validate,
    validate_model,
)
from megatron_train.data.batch import LossRule
from megatron_train.data.loader import BatchMaker, DeviceBatch
from megatron_train.data.packing_cache import planned_samples
from megatron_train.data.sampler import micro_batch_indices
from megatron_train.data.sft_dataset import Samples, test_sets, validation_sets
from megatron_train.evaluate import evaluate, mean_loss
from megatron_train.model.build import build_model
from megatron_train.model.transformer_engine import check_transformer_engine
from megatron_train.optim.loss import loss_factors, masked_loss_sum
from megatron_train.optim.lr_schedule import learning_rate
from megatron_train.optim.optimizer import build_optimizer, set_rates, wrap_model
from megatron_train.optim.update import apply_update, count_not_finite, is_spike
from megatron_train.parallel.device import device_name
from megatron_train.parallel.distributed import init_distributed, sum_over_ranks, world_size
from megatron_train.parallel.hang_watch import HangWatch
from megatron_train.parallel.schedule import run_schedule
from megatron_train.parallel.stop_request import StopRequest
from megatron_train.preflight import (
    check_last_turns,
    check_same_data,
    check_shards,
    check_vocabulary,
    find_tokenizer,
    load_manifest,
)
from megatron_train.report.console import say, warn
from megatron_train.report.flops import model_flops, peak_flops
from megatron_train.report.metrics import Reporter, StepReport
from megatron_train.report.phases import PhaseTimer, Profiler


def train(command: CommandLine) -> int:
    """Runs to `train_iters` or a request to stop; returns the exit code. Raises ValueErrors for what users can mend."""
    config = command.config
    validate(command, ParallelLayout.planned(config.parallel, world_size()))
    check_transformer_engine(config)
    layout = init_distributed(config.parallel, config.batch.seed)
    timer = PhaseTimer(exact=config.logging.timing_log_level > 0)
    with HangWatch(timer, config.parallel.distributed_timeout_minutes):
        return run(command, layout, timer)


def run(command: CommandLine, layout: ParallelLayout, timer: PhaseTimer) -> int:
    """As `train`, with the processes connected."""
    config = command.config
    start = find_start(config)
    model_config = load_model_config(config, start.folder if start else None)
    validate_model(command, model_config, layout)
    manifest, data_folder = load_manifest(config.data)
    check_shards(config.data)
    check_vocabulary(manifest, model_config, start.folder if start else None)
    announce(command, model_config, layout)

    samples, valid, test = all_samples(config, layout)
    pad_id = manifest.pad_token_id if manifest else 0
    make_batch = BatchMaker(config.data, loss_rule(config), pad_id, model_config.vocab_size)
    chunks = wrap_model(build_model(model_config, config), config)
    optimizer = build_optimizer(chunks, config)
    state = load_checkpoint(start, config, chunks, optimizer, layout)
    state = check_same_data(state, samples)
    tokenizer_dir = find_tokenizer(data_folder, start.folder if start else None)
    stop, profiler = StopRequest(config.logging), Profiler(config)
    not_finite = 0
    evaluated = state  # at its last evaluation, which counts for the best if it is saved

    with (
        Reporter(config, state.iteration, state.consumed_train_samples) as reporter,
        CheckpointSaver(config, model_config, layout, tokenizer_dir) as saver,
    ):
        while state.iteration < config.batch.train_iters:
            profiler.before(state.iteration + 1)
            state, report = train_step(
                state, config, layout, model_config, chunks, optimizer, samples, make_batch, timer
            )
            profiler.after(state.iteration)
            reporter.step(report)
            limit = config.optimizer.max_not_finite
            not_finite = count_not_finite(not_finite, report.iteration, report.lm_loss, report.grad_norm, limit)
            saver.check()
            finished = state.iteration >= config.batch.train_iters
            if valid and (finished or due(state.iteration, config.evaluation.eval_interval)):
                timer.enter("evaluate")
                results = evaluate(chunks, valid, config, layout, make_batch)
                reporter.evaluation(state.iteration, results)
                evaluated = state.evaluated(mean_loss(results))
            reason = stop.due(state.iteration)
            last = finished or reason is not None
            if config.checkpoint.save and (last or due(state.iteration, config.checkpoint.save_interval)):
                timer.enter("save")
                state = evaluated if evaluated.iteration == state.iteration else state
                saver.save(state, chunks, optimizer)
            if reason:
                say(f"leaving after iteration {state.iteration}: {reason}")
                break

        if state.iteration >= config.batch.train_iters:
            timer.enter("test")
            reporter.evaluation(state.iteration, evaluate(chunks, test, config, layout, make_batch), kind="test")
    return config.logging.exit_code_on_signal if stop.signalled else 0


def all_samples(config: TrainConfig, layout: ParallelLayout) -> tuple[Samples, dict[str, Samples], dict[str, Samples]]:
    """Of training, and the sets for validation and for the last test by name. Raises ConfigError."""
    samples = planned_samples(config, config.batch.train_iters * layout.global_batch_size(config.batch))
    valid, test = (
        ({}, {})
        if config.evaluation.eval_iters == 0
        else (validation_sets(config.data, config.batch.seed), test_sets(config.data, config.batch.seed))
    )
    check_last_turns(config, [samples, *valid.values(), *test.values()])
    describe_data(config, layout, samples, {**valid, **test})
    return samples, valid, test


def due(iteration: int, interval: int | None) -> bool:
    return interval is not None and iteration % interval == 0


def train_step(
    state: TrainState,
    config: TrainConfig,
    layout: ParallelLayout,
    model_config: ModelConfig,
    chunks: list[Any],
    optimizer: Any,
    samples: Samples,
    make_batch: BatchMaker,
    timer: PhaseTimer,
) -> tuple[TrainState, StepReport]:
    """One iteration: read the global batch, forward and backward, update, report. The same report on every rank."""
    timer.start(state.iteration + 1, "read")
    size = layout.global_batch_size(config.batch)
    lr = learning_rate(config.lr_schedule, state.applied_iterations * size, size, config.batch.train_iters)
    batches = read_global_batch(state, config, layout, samples, make_batch)
    timer.enter("forward_backward")

    for chunk in chunks:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    outputs = run_schedule(chunks, batches, forward_step, forward_only=False)
    loss, targets, tokens, squared = global_sums(outputs, batches, layout)
    timer.enter("optimizer")
    set_rates(optimizer, lr, config.optimizer.weight_decay)
    applied, grad_norm = apply_update(optimizer, config.optimizer.clip_grad, partial(is_unwanted, state, config, loss))
    timer.enter("report")

    state = state.advance(size, applied)
    if config.optimizer.skip_spike_sigma and math.isfinite(loss) and math.isfinite(grad_norm):
        state = state.remember(loss, grad_norm, config.optimizer.skip_spike_window)
    seconds, peak = timer.total(), peak_flops(config.logging.peak_tflops, device_name())
    flops = model_flops(model_config, round(tokens), round(squared))
    report = StepReport(
        iteration=state.iteration,
        lm_loss=loss,
        lr=lr,
        grad_norm=grad_norm,
        num_target_tokens=round(targets),
        num_tokens=round(tokens),
        tokens_per_second=tokens / seconds,
        mfu=flops / seconds / (peak * layout.world_size) if peak else None,
        consumed_train_samples=state.consumed_train_samples,
        epoch=state.consumed_train_samples / samples.rows_per_epoch,
        step_seconds=seconds,
        skipped=not applied,
        loss_scale=float(optimizer.get_loss_scale()) if config.model.fp16 else 1.0,
        phases=dict(timer.seconds) if config.logging.timing_log_level else None,
    )
    return state, report


def is_unwanted(state: TrainState, config: TrainConfig, loss: float, grad_norm: float) -> bool:
    """Must this update stay away: asked for (--skip_iters), loss not finite, or a spike (--skip_spike_sigma)?"""
    settings = config.optimizer
    if state.iteration + 1 in settings.skip_iters or not math.isfinite(loss):
        return True
    if not settings.skip_spike_sigma:
        return False
    sigma = settings.skip_spike_sigma
    return is_spike(loss, state.recent_losses, sigma) or is_spike(grad_norm, state.recent_grad_norms, sigma)


def read_global_batch(
    state: TrainState, config: TrainConfig, layout: ParallelLayout, samples: Samples, make_batch: BatchMaker
) -> list[DeviceBatch]:
    """This rank's micro-batches of the iteration, each with its loss factor."""
    rows = micro_batch_indices(
        state.consumed_train_samples,
        layout.num_microbatches(config.batch),
        config.batch.micro_batch_size,
        parallel_state.get_data_parallel_rank(),
        layout.dp,
    )
    batches = [make_batch(samples, row) for row in rows]
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    factors = loss_factors([b.loss_weight for b in batches], config.batch.loss_normalization, layout.dp, group)
    for batch, factor in zip(batches, factors, strict=True):
        batch.loss_factor = factor
    return batches


def forward_step(data_iterator: Iterator[DeviceBatch], model: Any) -> tuple[Tensor, Any]:
    batch = next(data_iterator)
    losses = model(batch.tokens, batch.position_ids, None, labels=batch.labels, packed_seq_params=batch.packed)
    return losses, partial(scaled_loss, batch)


def scaled_loss(batch: DeviceBatch, losses: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """`losses` [b, s] -> (what is differentiated, a count megatron-core wants, what is reported)."""
    loss = masked_loss_sum(losses, batch.loss_mask) * batch.loss_factor
    return loss, torch.tensor(1, dtype=torch.int, device=losses.device), {"loss": loss.detach().double().clone()}


def global_sums(
    outputs: list[dict[str, Tensor]], batches: list[DeviceBatch], layout: ParallelLayout
) -> tuple[float, float, float, float]:
    """(loss, target tokens, document tokens, squared lengths) of the global batch, the same on every rank."""
    loss = (
        sum(float(output["loss"]) for output in outputs) / layout.tp
    )  # only the last stage has outputs, each tp rank the same
    copies = layout.tp * layout.pp
    counts = [
        sum(float(getattr(b, name)) for b in batches) / copies
        for name in ("loss_weight", "num_tokens", "squared_lengths")
    ]
    loss, targets, tokens, squared = sum_over_ranks([loss, *counts])
    return loss, targets, tokens, squared


def loss_rule(config: TrainConfig) -> LossRule:
    data = config.data
    roles = tuple(int(LOSS_ROLES[role]) for role in data.loss_roles)
    return LossRule(roles, data.loss_alignment, data.last_turn_only, data.scalar_loss_mask)


def announce(command: CommandLine, model: ModelConfig, layout: ParallelLayout) -> None:
    say(config_table(command.config))
    if command.ignored:
        say("without effect here: " + "; ".join(f"--{name} ({reason})" for name, reason in command.ignored.items()))
    for line in describe_choices(command.config):
        say(line)
    say(
        f"{model.family} with {model.num_parameters():,} parameters ({model.num_layers} layers, hidden "
        f"{model.hidden_size}, vocabulary "
        f"{model.vocab_size:,} padded to {model.padded_vocab:,}) on {layout.world_size} processes: TP {layout.tp} x "
        f"PP {layout.pp} x DP {layout.dp}"
    )


def describe_data(config: TrainConfig, layout: ParallelLayout, samples: Samples, evaluated: dict[str, Samples]) -> None:
    say(describe_batch(config, layout, samples.documents_per_epoch, samples.rows_per_epoch))
    for name, each in {"training": samples, **evaluated}.items():
        if each.num_overlong:
            warn(
                f"{name}: {each.num_overlong:,} of {each.documents_per_epoch:,} documents exceed seq_length "
                f"{config.data.seq_length}: --overlong {config.data.overlong}"
            )
    if config.data.packing:
        positions, rows, width = samples.num_positions(), len(samples), config.data.seq_length
        say(
            f"packing efficiency {positions / (rows * width):.2%}: {rows:,} rows, no packing has fewer than "
            f"{-(-positions // width):,}"
        )
