"""Wrap the model for data parallelism and build megatron-core's mixed-precision AdamW.

Every run uses the distributed optimizer, so checkpoints have one format. With one data-parallel rank it costs nothing.
"""

from __future__ import annotations

import weakref
from typing import Any

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import Float16Module

from megatron_train.config.settings import Optimizer, TrainConfig
from megatron_train.optim.adam import FusedLayoutAdam
from megatron_train.optim.weight_gradients import accumulate_in_products, planned_accumulation
from megatron_train.parallel.device import replace_torch_adam


def wrap_model(chunks: list[Any], config: TrainConfig) -> list[Any]:
    """Return the model chunks wrapped for data parallelism, with fp32 gradient buffers.

    Data-parallel ranks get the same initial weights. In bf16 and fp16 a chunk also gets a wrapper that casts its inputs
    and outputs.
    """
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
    is_local = config.model.transformer_impl == "local"
    accumulate_in_products(wrapped, planned_accumulation(core_config.params_dtype, is_local))
    return wrapped


def build_optimizer(chunks: list[Any], config: TrainConfig) -> MegatronOptimizer:
    """Return megatron-core's AdamW optimizer for `chunks`, which wrap_model has wrapped.

    Also store the functions for loss scaling and gradient reduction in the model's configuration, where megatron-core's
    pipeline schedules call them.
    """
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
    """Return the dotted name of the Adam class that build_optimizer uses.

    It is Transformer Engine's or Apex's if one of them is installed, else FusedLayoutAdam.
    """
    import megatron.core.optimizer as optimizer

    adam = FusedLayoutAdam if optimizer.USING_PYTORCH_OPTIMIZER else optimizer.Adam
    return f"{adam.__module__}.{adam.__name__}"


def _finalize(chunks: list[Any], num_tokens: Any = None, **groups: Any) -> None:
    """Reduce the gradients over all ranks, without megatron-core's division by `num_tokens`.

    The losses are already scaled (optim/loss.py).
    """
    finalize_model_grads(chunks, None, **groups)


def set_rates(optimizer: MegatronOptimizer, lr: float, weight_decay: float) -> None:
    """Set the learning rate and weight decay of the next optimizer step.

    Biases and norms get no weight decay, because megatron-core gives their parameter group a `wd_mult` of 0.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
        group["weight_decay"] = weight_decay * group["wd_mult"]


def set_adam(optimizer: MegatronOptimizer, settings: Optimizer) -> None:
    """Set Adam's decay rates and eps to those in `settings`.

    Call it after loading an optimizer state, which brings the values of the run that saved it.
    """
    betas = (settings.adam_beta1, settings.adam_beta2)  # one object, so that a resumed run saves the same bytes
    for group in optimizer.param_groups:
        group["betas"], group["eps"] = betas, settings.adam_eps


def set_learning_rates(state: dict[str, Any], optimizer: MegatronOptimizer) -> None:
    """Set the bounds of the learning rate in `state`, a loaded optimizer state, to those of this run.

    megatron-core 0.19 finds the groups of parameters by these bounds, and finds none after a change of --lr.
    """
    own = optimizer.param_groups[0]
    for group in state["optimizer"]["param_groups"]:
        group.update(max_lr=own["max_lr"], min_lr=own["min_lr"])


def gather_weights(chunks: list[Any], config: TrainConfig) -> None:
    """Gather the updated weights from the data-parallel ranks, and wait until they are complete.

    This matters with overlap_param_gather only, where the weights would otherwise arrive in the next forward pass.
    """
    if config.parallel.overlap_param_gather:
        for chunk in chunks:
            chunk.start_param_sync(force_sync=True)


def unwrap(chunk: Any) -> Any:
    """Return the GPTModel inside the data-parallel and casting wrappers of `chunk`."""
    while hasattr(chunk, "module"):
        chunk = chunk.module
    return chunk
