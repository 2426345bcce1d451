"""The part of a parity certificate that every rank runs: train a few iterations, and record or compare the results.

record_references(model, configs, folder)       # one process: the initial weights and the traces to compare with
compare_cases(model, cases, folder)             # the ranks of a layout: the differences from these traces
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_train.certificate.comparison import Difference, Trace, compare
from megatron_train.certificate.plan import Case
from megatron_train.certificate.tensors import full_gradients, full_parameters, perturb_parameters
from megatron_train.checkpoint.save_load import load_weights, save_checkpoint
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.settings import Checkpoint, TrainConfig
from megatron_train.data.sft_dataset import training_samples
from megatron_train.optim.optimizer import gather_weights, unwrap
from megatron_train.parallel.distributed import init_distributed
from megatron_train.run import Run


def record_references(model: ModelConfig, configs: dict[str, TrainConfig], folder: Path) -> None:
    """Write a checkpoint of random weights to `folder`, train each of `configs` from them, and write its Trace there.

    The keys of `configs` are the precisions, fp32 first, and the trace of fp32 is the file fp32.pt.
    """
    config = next(iter(configs.values()))
    run = build_run(model, config)
    perturb_parameters(run.chunks)
    saved = replace(config, checkpoint=Checkpoint(save=str(folder)))
    with contextlib.redirect_stdout(None):
        save_checkpoint(run.contents()._replace(config=saved, optimizer=None))
    for precision, config in configs.items():
        trace_run(start_run(model, config, folder)).save(folder / f"{precision}.pt")


def compare_cases(model: ModelConfig, cases: list[Case], folder: Path) -> list[Difference]:
    """Run every case from the weights in `folder`, and return its differences from the trace of one process.

    All ranks call this function and get the same result.
    """
    return [
        compare(trace_run(start_run(model, case.config, folder)), Trace.load(folder / f"{case.precision}.pt"))
        for case in cases
    ]


def build_run(model: ModelConfig, config: TrainConfig) -> Run:
    """Return a run with random weights at iteration 0, in new process groups of the layout in `config`."""
    layout = init_distributed(config.parallel, config.batch.seed)
    num_samples = config.batch.train_iters * layout.global_batch_size(config.batch)
    return Run.build(config, layout, model, training_samples(config.data, num_samples, config.batch.seed))


def start_run(model: ModelConfig, config: TrainConfig, folder: Path) -> Run:
    """Return a run at iteration 0 with the weights of the checkpoint that record_references wrote to `folder`."""
    run = build_run(model, config)
    load_weights(folder / "iter_0000000", run.chunks)
    run.optimizer.reload_model_params()
    return run


def trace_run(run: Run) -> Trace:
    """Train all iterations of a run, and return its losses, gradients and updates as a Trace.

    All ranks call this function and get the same trace.
    """
    before, _ = full_parameters(run.chunks)
    gradients: list[dict[str, Tensor]] = []
    reports, apart = [], 0.0
    with recorded_gradients(run, gradients) as copies:
        while not run.is_finished:
            reports.append(run.step())
    gather_weights(run.chunks, run.config)
    after, apart = full_parameters(run.chunks)
    return Trace(
        losses=[report.lm_loss for report in reports],
        grad_norms=[report.grad_norm for report in reports],
        gradients=gradients,
        updates={name: after[name] - before[name] for name in before},
        rounding={name: len(reports) * spacing(tensor) for name, tensor in after.items()},
        copies_apart=max(apart, *copies),
        num_applied=run.state.applied_iterations,
    )


def spacing(tensor: Tensor) -> float:
    """Return the largest distance between a number of the tensor and the next larger fp32 number."""
    largest = tensor.abs().max()
    return float(torch.nextafter(largest, torch.tensor(torch.inf)) - largest)


@contextlib.contextmanager
def recorded_gradients(run: Run, gradients: list[dict[str, Tensor]]) -> Iterator[list[float]]:
    """Inside the block, append the reduced gradients of each iteration to `gradients`, without the fp16 loss scale.

    Yields a list to which each iteration adds one number: the largest difference between two ranks that hold the same
    gradient.
    """
    core_config = unwrap(run.chunks[0]).config
    finalize = core_config.finalize_model_grads_func
    copies: list[float] = []

    def finalize_and_record(*arguments: Any, **keywords: Any) -> None:
        finalize(*arguments, **keywords)
        scale = float(run.optimizer.get_loss_scale())
        whole, apart = full_gradients(run.chunks)
        gradients.append({name: torch.div(tensor, scale) for name, tensor in whole.items()})
        copies.append(apart)

    core_config.finalize_model_grads_func = finalize_and_record
    try:
        yield copies
    finally:
        core_config.finalize_model_grads_func = finalize
