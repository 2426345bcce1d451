"""Wrap the model for data parallelism and build megatron-core's mixed-precision AdamW.

Every run uses the distributed optimizer, so checkpoints have one format. With one data-parallel rank it costs nothing.
"""

from __future__ import annotations

import weakref
from typing import Any

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import Float16Module

from megatron_train.config.settings import TrainConfig
from megatron_train.optim.adam import FusedLayoutAdam
from megatron_train.parallel.device import replace_torch_adam


def wrap_model(chunks: list[Any], config: TrainConfig) -> list[Any]:
    """Wrap each chunk for data parallelism with an fp32 gradient buffer; 16-bit chunks get a casting wrapper first."""
    core_config, parallel = chunks[0].config, config.parallel
    if config.model.bf16 or config.model.fp16:
        chunks = [Float16Module(core_config, chunk) for chunk in chunks]
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        use_distributed_optimizer=True,
        check_for_nan_in_grad=False,  # a non-finite gradient skips the step instead of ending the run
    )
    overlap = parallel.overlap_param_gather
    wrapped = [
        DistributedDataParallel(core_config, ddp_config, chunk, disable_bucketing=index > 0 and not overlap)
        for index, chunk in enumerate(chunks)
    ]
    for chunk in wrapped:
        chunk.broadcast_params()  # each replica initialised its own random weights
    return wrapped


def build_optimizer(chunks: list[Any], config: TrainConfig) -> MegatronOptimizer:
    """Build AdamW over wrapped `chunks`, and connect loss scale and gradient reduction to megatron-core's schedules."""
    settings, core_config = config.optimizer, unwrap(chunks[0]).config
    replace_torch_adam(FusedLayoutAdam)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=config.lr_schedule.lr,
            min_lr=config.lr_schedule.min_lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.adam_beta1,
            adam_beta2=settings.adam_beta2,
            adam_eps=settings.adam_eps,
            clip_grad=settings.clip_grad,
            bf16=config.model.bf16,
            fp16=config.model.fp16,
            params_dtype=core_config.params_dtype,
            initial_loss_scale=settings.initial_loss_scale,
            loss_scale_window=settings.loss_scale_window,
            hysteresis=settings.hysteresis,
            min_loss_scale=settings.min_loss_scale,
            use_distributed_optimizer=True,
            overlap_param_gather=config.parallel.overlap_param_gather,
        ),
        chunks,
        use_gloo_process_groups=False,
    )
    if config.model.fp16:
        # The model holds this configuration. A strong reference would make a cycle that is never collected.
        scale_loss = weakref.WeakMethod(optimizer.scale_loss)
        core_config.grad_scale_func = lambda loss: scale_loss()(loss)  # type: ignore[misc]
    core_config.finalize_model_grads_func = _finalize
    if config.parallel.overlap_grad_reduce:
        core_config.no_sync_func = [chunk.no_sync for chunk in chunks] if len(chunks) > 1 else chunks[0].no_sync
    if config.parallel.overlap_param_gather and len(chunks) > 1:
        core_config.param_sync_func = [chunk.start_param_sync for chunk in chunks]
    return optimizer


def adam_name() -> str:
    """Return the module and class of the Adam that build_optimizer uses: our own, Transformer Engine's or Apex's."""
    import megatron.core.optimizer as optimizer

    adam = FusedLayoutAdam if optimizer.USING_PYTORCH_OPTIMIZER else optimizer.Adam
    return f"{adam.__module__}.{adam.__name__}"


def _finalize(chunks: list[Any], num_tokens: Any = None, **groups: Any) -> None:
    """Reduce gradients without megatron-core's division by `num_tokens`: losses are already scaled (optim/loss.py)."""
    finalize_model_grads(chunks, None, **groups)


def set_rates(optimizer: MegatronOptimizer, lr: float, weight_decay: float) -> None:
    """Set the rate and weight decay of the next step. Biases and norms have `wd_mult` 0, which the caller applies."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
        group["weight_decay"] = weight_decay * group["wd_mult"]


def gather_weights(chunks: list[Any], config: TrainConfig) -> None:
    """Wait for the updated weights. With overlap_param_gather they would arrive during the next forward pass."""
    if config.parallel.overlap_param_gather:
        for chunk in chunks:
            chunk.start_param_sync(force_sync=True)


def unwrap(chunk: Any) -> Any:
    """Return the GPTModel inside the wrappers."""
    while hasattr(chunk, "module"):
        chunk = chunk.module
    return chunk
