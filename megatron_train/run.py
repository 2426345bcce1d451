"""The state of a training run, with the methods that the training loop in train.py calls.

run = Run.build(config, layout, model_config, samples)
report = run.step()                                       # one iteration
results = run.evaluate({"val": samples})                  # one clean pass over each set
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import parallel_state

from megatron_train.checkpoint.save_load import Contents
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.data.loader import BatchMaker, DeviceBatch, HostBatch, to_device
from megatron_train.data.read_ahead import ReadAhead
from megatron_train.data.sampler import micro_batch_indices
from megatron_train.data.sft_dataset import Samples
from megatron_train.evaluate import EvaluationBatches, evaluate
from megatron_train.model.build import build_model
from megatron_train.optim.loss import loss_factors
from megatron_train.optim.lr_schedule import learning_rate
from megatron_train.optim.optimizer import build_optimizer, wrap_model
from megatron_train.optim.update import NothingLearnedError
from megatron_train.parallel.device import device_name
from megatron_train.report.flops import model_flops, peak_flops
from megatron_train.report.metrics import StepReport, mean_loss
from megatron_train.report.phases import PhaseTimer, Profiler
from megatron_train.train_step import StepResult, Update, is_unwanted, train_step


@dataclass
class Run:
    """The state of a training run on one rank. All ranks call each method together, at the same iteration."""

    config: TrainConfig
    layout: ParallelLayout
    model_config: ModelConfig
    samples: Samples
    make_batch: BatchMaker
    chunks: list[Any]
    """The parts of the model on this pipeline stage, each in megatron-core's data-parallel wrapper."""
    optimizer: Any
    profiler: Profiler
    state: TrainState = field(default_factory=TrainState)
    timer: PhaseTimer = field(default_factory=PhaseTimer)
    tokenizer_dirs: dict[str, Path] = field(default_factory=dict)
    """Tokenizer folders to copy into every saved checkpoint, by their subfolder in the checkpoint."""
    validation: tuple[int, float] = (0, math.nan)
    """(iteration, mean loss) of the last evaluation; the loss is NaN before the first one."""
    reader: ReadAhead[range, HostBatch] = field(init=False)

    def __post_init__(self) -> None:
        self.reader = ReadAhead(self._read)

    @classmethod
    def build(
        cls,
        config: TrainConfig,
        layout: ParallelLayout,
        model_config: ModelConfig,
        samples: Samples,
        pad_id: int = 0,
        random_weights: bool = True,
    ) -> Run:
        """Return a run at iteration 0 with a new optimizer. `layout`'s process groups must exist.

        `pad_id` is the token id that fills padding. Without `random_weights`, the weights are uninitialized until a
        checkpoint is loaded.
        """
        chunks = wrap_model(build_model(model_config, config, random_weights), config)
        optimizer = build_optimizer(chunks, config)
        make_batch = BatchMaker(config.data, pad_id, model_config.vocab_size)
        return cls(config, layout, model_config, samples, make_batch, chunks, optimizer, Profiler(config))

    @property
    def iteration(self) -> int:
        """Number of iterations done since the run began, including those of earlier launches."""
        return self.state.iteration

    @property
    def is_finished(self) -> bool:
        return self.iteration >= self.config.batch.train_iters

    def due(self, interval: int | None) -> bool:
        """Return whether an action that is taken every `interval` iterations is due now.

        At the end of the run, every action is due. With None as the interval, the action is due only then.
        """
        return self.is_finished or (interval is not None and self.iteration % interval == 0)

    def step(self) -> StepReport:
        """Train one iteration and return its report, which is the same on every rank.

        Raises ShardError when a token id is outside the model's vocabulary.
        """
        state, optimizer = self.state, self.config.optimizer
        self.profiler.before(state.iteration + 1)
        self.timer.start(state.iteration + 1, "read")
        veto = partial(is_unwanted, state, optimizer)
        update = Update(self._learning_rate(), optimizer.weight_decay, optimizer.clip_grad, veto)
        result = train_step(self.chunks, self.optimizer, self._read_global_batch(), update, self.timer)
        self.timer.enter("report")
        loss, grad_norm = result.sums.loss, result.grad_norm
        self.state = state.advance(self.layout.global_batch_size(self.config.batch), result.is_applied)
        if optimizer.skip_spike_sigma and math.isfinite(loss) and math.isfinite(grad_norm):
            self.state = self.state.remember(loss, grad_norm, optimizer.skip_spike_window)
        report = self._report(result, update.lr)
        self.profiler.after(self.iteration)
        return report

    def _learning_rate(self) -> float:
        """Return the learning rate of the next iteration. Skipped iterations do not advance its schedule."""
        size = self.layout.global_batch_size(self.config.batch)
        consumed = self.state.applied_iterations * size
        return learning_rate(self.config.lr_schedule, consumed, size, self.config.batch.train_iters)

    def _read(self, rows: range) -> HostBatch:
        return self.make_batch.read(self.samples, rows)

    def _rows(self, consumed_samples: int) -> list[range]:
        """Return the samples of each of this rank's micro-batches, in the iteration after `consumed_samples`."""
        batch, layout = self.config.batch, self.layout
        return micro_batch_indices(
            consumed_samples,
            layout.num_microbatches(batch),
            batch.micro_batch_size,
            parallel_state.get_data_parallel_rank(),
            layout.dp,
        )

    def _read_global_batch(self) -> list[DeviceBatch]:
        """Return this rank's micro-batches of the next global batch, each with the factor that scales its loss.

        The global batch after it is then read in a thread, unless this is the last iteration.
        """
        batch, layout, consumed = self.config.batch, self.layout, self.state.consumed_train_samples
        is_last = self.iteration + 1 >= batch.train_iters
        following = [] if is_last else self._rows(consumed + layout.global_batch_size(batch))
        batches = [to_device(each) for each in self.reader.take(self._rows(consumed), following)]
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        factors = loss_factors([b.loss_weight for b in batches], batch.loss_normalization, layout.dp, group)
        for each, factor in zip(batches, factors, strict=True):
            each.loss_factor = factor
        return batches

    def _report(self, result: StepResult, lr: float) -> StepReport:
        """Return the report of the iteration that has just ended, from its result, its learning rate and the timer."""
        config, state, sums, seconds = self.config, self.state, result.sums, self.timer.total()
        flops = model_flops(self.model_config, round(sums.num_tokens), round(sums.squared_lengths))
        peak = peak_flops(config.logging.peak_tflops, device_name())
        return StepReport(
            iteration=state.iteration,
            lm_loss=sums.loss,
            lr=lr,
            grad_norm=result.grad_norm,
            num_target_tokens=round(sums.num_target_tokens),
            num_tokens=round(sums.num_tokens),
            tokens_per_second=sums.num_tokens / seconds,
            mfu=flops / seconds / (peak * self.layout.world_size) if peak else None,
            consumed_train_samples=state.consumed_train_samples,
            epoch=state.consumed_train_samples / self.samples.rows_per_epoch,
            step_seconds=seconds,
            skipped=not result.is_applied,
            loss_scale=float(self.optimizer.get_loss_scale()) if config.model.fp16 else 1.0,
            phases=dict(self.timer.seconds) if config.logging.timing_log_level else None,
        )

    def evaluate(
        self, sets: dict[str, Samples], interrupted: Callable[[], object] | None = None
    ) -> dict[str, dict[str, float]]:
        """Evaluate the model on each set. Return set name -> {loss, ppl, token_accuracy, num_target_tokens}.

        All ranks call `interrupted` every few micro-batches. Once it returns something true, the evaluation stops and
        returns an empty dict. The mean loss is kept in `validation`, for the next checkpoint.
        """
        self.timer.enter("evaluate")
        batches = EvaluationBatches(self.config, self.layout, self.make_batch)
        results = evaluate(self.chunks, sets, batches, interrupted)
        self.validation = (self.iteration, mean_loss(results))
        return results

    def check_that_it_learned(self) -> None:
        """Raise NothingLearnedError when the run is finished and no iteration has updated the weights."""
        if self.is_finished and not self.state.applied_iterations:
            raise NothingLearnedError(
                f"none of the {self.iteration} updates was applied: each was not finite, without target tokens, a "
                "spike, or listed in --skip_iters. The weights are those of the start; no checkpoint is saved"
            )

    def contents(self) -> Contents:
        """Return everything that a checkpoint of the current iteration holds. The timer enters the phase `save`.

        If the current iteration was evaluated, its validation loss decides whether it becomes the best iteration.
        """
        self.timer.enter("save")
        iteration, loss = self.validation
        if iteration == self.iteration:
            self.state = self.state.evaluated(loss)
        return Contents(
            self.config,
            self.model_config,
            self.state,
            self.chunks,
            self.optimizer,
            self.layout,
            self.tokenizer_dirs,
        )
