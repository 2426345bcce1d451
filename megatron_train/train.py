"""The training run from top to bottom. Read this file first.

    torchrun --nproc_per_node 2 -m megatron_train --config configs/train/demo_stage1.yaml

`train` connects the processes, `prepare` builds the run from its checkpoint and data, and `train_to_the_end` loops.
"""

from __future__ import annotations

from dataclasses import replace

from megatron_train.announce import announce, announce_data, announce_schedule
from megatron_train.checkpoint.resume import find_start, load_model_config
from megatron_train.checkpoint.run_lock import run_lock
from megatron_train.checkpoint.save_load import load_checkpoint
from megatron_train.checkpoint.saver import CheckpointSaver
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.flags import CommandLine
from megatron_train.config.in_force import with_batch_size, with_iterations
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.validate import validate, validate_batch, validate_model
from megatron_train.data.packing_cache import planned_samples
from megatron_train.data.sft_dataset import rows_per_epoch
from megatron_train.evaluate import EvaluationSets
from megatron_train.model.transformer_engine import check_transformer_engine
from megatron_train.optim.update import Divergence
from megatron_train.parallel.distributed import init_distributed, world_size
from megatron_train.parallel.hang_watch import HangWatch
from megatron_train.parallel.stop_request import StopRequest
from megatron_train.preflight import (
    check_last_turns,
    check_same_data,
    check_shards,
    check_targets,
    check_vocabulary,
    find_tokenizer,
    is_nothing_left,
    load_manifest,
)
from megatron_train.report.console import say, warn
from megatron_train.report.metrics import Reporter
from megatron_train.report.phases import PhaseTimer
from megatron_train.run import Run


def train(command: CommandLine) -> int:
    """Train until `train_iters` iterations are done or a stop is requested, and return the exit code.

    It is 0, or --exit_code_on_signal after a signal. For a problem that a user can solve, raises a kind of
    ValueError: ConfigError, CheckpointError, ShardError, DivergedError or NothingLearnedError.
    """
    config = command.config
    validate(command, ParallelLayout.planned(config.parallel, world_size()))
    check_transformer_engine(config)
    layout = init_distributed(config.parallel, config.batch.seed)
    timer = PhaseTimer(exact=config.logging.timing_log_level > 0)
    with HangWatch(timer, config.parallel.distributed_timeout_minutes):
        prepared = prepare(command, layout, timer)
        if prepared is None:
            return 0
        with run_lock(config.checkpoint.save):
            return train_to_the_end(*prepared)


def train_to_the_end(run: Run, sets: EvaluationSets) -> int:
    """Train the remaining iterations, then evaluate the test sets. Return the exit code.

    It is 0, or --exit_code_on_signal after a signal. The function also reports, evaluates and saves at the intervals of
    the settings. A request to stop saves a checkpoint and ends the training early, without the test sets.
    """
    config = run.config
    stop = StopRequest(config.logging, config.batch.train_iters)
    divergence = Divergence(config.optimizer.max_not_finite)
    reason = None
    with (
        Reporter(config, run.iteration, run.state.consumed_train_samples) as reporter,
        CheckpointSaver(config) as saver,
        run.reader,
    ):
        while not run.is_finished:
            report = run.step()
            reporter.step(report)
            divergence.check(report.iteration, report.lm_loss, report.grad_norm)
            saver.check()
            reason = stop.due(run.iteration)
            if not reason and run.due(config.evaluation.eval_interval):
                reporter.evaluation(run.iteration, run.evaluate(sets.valid, stop.requested))
                reason = stop.due(run.iteration)
            run.check_that_it_learned()
            if reason or run.due(config.checkpoint.save_interval):
                saver.save(run.contents())
            if reason:
                say(f"stopping after iteration {run.iteration}: {reason}")
                break

        if run.is_finished and not reason:
            reporter.evaluation(run.iteration, run.evaluate(sets.test, stop.requested), kind="test")
        elif run.is_finished and sets.test:
            warn(f"the test sets are left out; run `megatron-train evaluate --load {config.checkpoint.save}`")
    return config.logging.exit_code_on_signal if stop.signalled else 0


def prepare(command: CommandLine, layout: ParallelLayout, timer: PhaseTimer) -> tuple[Run, EvaluationSets] | None:
    """Return the run, ready for its next iteration, and its evaluation sets; None when the run is already finished.

    The function finds the checkpoint to start from, checks that model, data and checkpoint belong together, builds the
    model and the optimizer, and loads the checkpoint into them.
    """
    config = command.config
    start = find_start(config)
    folder, state, stored = (start.folder, start.state(), start.settings()) if start else (None, TrainState(), {})
    config = with_batch_size(config, layout, stored)
    validate_batch(config, layout)
    model_config = load_model_config(config, folder)
    validate_model(command, model_config, layout)
    manifest, data_folder = load_manifest(config.data)
    check_shards(config.data)
    check_vocabulary(manifest, model_config, folder)
    if not config.batch.train_iters:
        rows = rows_per_epoch(config.data, config.batch.seed)
        config = with_iterations(config, layout, rows, state.iteration, state.consumed_train_samples)
    announce(config, command.ignored, model_config, layout)
    if is_nothing_left(config, start, state):
        return None

    batches_left = config.batch.train_iters - state.iteration
    num_samples = state.consumed_train_samples + batches_left * layout.global_batch_size(config.batch)
    samples = planned_samples(config, num_samples)
    sets = EvaluationSets.of(config.data, config.batch.seed) if config.evaluation.eval_iters != 0 else EvaluationSets()
    evaluated = sets.by_name()
    check_targets(config.data, samples)
    check_last_turns(config.data, [samples, *evaluated.values()])
    announce_data(config, layout, samples, evaluated)

    pad_id = manifest.pad_token_id if manifest else 0
    run = Run.build(config, layout, model_config, samples, pad_id, random_weights=start is None)
    run.timer = timer
    run.tokenizer_dirs = find_tokenizer(data_folder, folder)
    state = load_checkpoint(start, config, run.chunks, run.optimizer, layout)
    if start and start.resume:
        announce_schedule(config, layout, start, state)
    run.state = replace(check_same_data(state, samples), world_size=layout.world_size)
    return run, sets
