"""Print the settings, the model, the batch and the data of a run before its first iteration."""

from __future__ import annotations

import math

from megatron_train.checkpoint.resume import Start
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.flags import OWNER, config_from_settings, config_table
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.config.without_effect import settings_without_effect
from megatron_train.data.sft_dataset import Samples
from megatron_train.model.attention import planned_kernel
from megatron_train.model.build import training_dtype
from megatron_train.optim.lr_schedule import learning_rate
from megatron_train.optim.optimizer import adam_name
from megatron_train.optim.weight_gradients import planned_accumulation
from megatron_train.parallel.rank_devices import describe_devices
from megatron_train.report.console import say, warn


def announce(config: TrainConfig, ignored: dict[str, str], model: ModelConfig, layout: ParallelLayout) -> None:
    """Print the settings, the `ignored` flags with their reasons, the model with its layout, the devices and kernels.

    Also print which settings differ from Megatron-LLM in their effect, and warn of settings that have no effect in this
    run. All ranks call this function, and rank 0 prints.
    """
    say(config_table(config))
    if ignored:
        say("without effect here: " + "; ".join(f"--{name} ({reason})" for name, reason in ignored.items()))
    for line in differences_from_megatron_llm(config):
        say(line)
    for line in settings_without_effect(config):
        warn(line)
    say(
        f"{model.family} with {model.num_parameters():,} parameters ({model.num_layers} layers, hidden "
        f"{model.hidden_size}, vocabulary "
        f"{model.vocab_size:,} padded to {model.padded_vocab:,}) on {layout.world_size} processes: TP {layout.tp} x "
        f"PP {layout.pp} x DP {layout.dp}"
        + (f", stages of {layout.describe_split(model.num_layers)} layers" if layout.pp > 1 else "")
    )
    say(f"on {describe_devices()}; attention kernel {planned_kernel(model, config)}; Adam {adam_name()}")
    gradients = planned_accumulation(training_dtype(config), config.model.transformer_impl == "local")
    say(f"weight gradients are added to fp32 by kernel {gradients.kernel}: {gradients.reason}")


def differences_from_megatron_llm(config: TrainConfig) -> list[str]:
    """Return one line of explanation for each setting of the run whose effect may surprise users of Megatron-LLM."""
    lines = []
    if config.data.data_path:
        lines.append(
            f"as in Megatron-LLM, data_path is split {config.data.split} again, and a validation shard beside it is "
            f"not read (--train_data_path and --valid_data_path take whole shards)"
        )
    if config.batch.loss_normalization == "token":
        lines.append(
            "unlike in Megatron-LLM, the loss is divided by the target tokens of the global batch, not averaged over "
            "micro-batches (--loss_normalization micro_batch averages)"
        )
    if config.model.recompute_granularity == "selective":
        lines.append(
            "recompute_granularity selective recomputes attention; in Megatron-LLM with flash attention it recomputes "
            "nothing"
        )
    return lines


def announce_schedule(config: TrainConfig, layout: ParallelLayout, start: Start, state: TrainState) -> None:
    """Warn when a resumed run starts with another learning rate than the checkpoint's settings give at that iteration.

    If the end of the decay differs too, the warning names the flag that restores it.
    """
    stored = {name: value for name, value in start.settings().items() if name in OWNER}
    if not stored:
        return
    before = config_from_settings(stored, str(start.folder))
    size, applied = layout.global_batch_size(config.batch), state.applied_iterations
    now, then = (
        learning_rate(each.lr_schedule, applied * size, size, each.batch.train_iters) for each in (config, before)
    )
    if math.isclose(now, then, rel_tol=1e-6, abs_tol=1e-12):
        return
    end = before.lr_schedule.lr_decay_iters or before.batch.train_iters
    is_end_changed = end != (config.lr_schedule.lr_decay_iters or config.batch.train_iters)
    remedy = f"; --lr_decay_iters {end} keeps the old end of the decay" if is_end_changed else ""
    warn(f"the learning rate continues at {now:.3g}; the checkpoint's schedule gives {then:.3g} here{remedy}")


def announce_data(config: TrainConfig, layout: ParallelLayout, samples: Samples, evaluated: dict[str, Samples]) -> None:
    """Print the make-up of the global batch, the number of epochs, and the share of positions that packing fills.

    `samples` are the training samples, and `evaluated` maps the name of each evaluation set to its samples. Warn about
    documents in them that are too long or have no target token, and about a warm-up that is longer than the run.
    """
    say(describe_batch(config, layout, samples.documents_per_epoch, samples.rows_per_epoch))
    for name, each in {"training": samples, **evaluated}.items():
        if each.num_overlong:
            warn(
                f"{name}: {each.num_overlong:,} of {each.documents_per_epoch:,} documents exceed seq_length "
                f"{config.data.seq_length}: --overlong {config.data.overlong}"
            )
        if each.num_without_target:
            warn(
                f"{name}: {each.num_without_target:,} of {each.documents_per_epoch:,} documents have no token of "
                f"loss_roles ({', '.join(config.data.loss_roles)}) within seq_length, and add nothing to the loss"
            )
    if config.lr_schedule.lr_warmup_iters > config.batch.train_iters:
        warn(
            f"lr_warmup_iters {config.lr_schedule.lr_warmup_iters} exceeds train_iters {config.batch.train_iters}: the "
            "run ends during the warm-up"
        )
    if config.data.packing:
        positions, rows, width = samples.num_positions(), len(samples), config.data.seq_length
        say(
            f"packing efficiency {positions / (rows * width):.2%}: {rows:,} rows, no packing has fewer than "
            f"{-(-positions // width):,}"
        )


def describe_batch(config: TrainConfig, layout: ParallelLayout, documents: int, rows_per_epoch: float) -> str:
    """Return the make-up of the global batch and the number of epochs as text.

    `documents` and `rows_per_epoch` are the numbers of training documents and of samples in one epoch. An example:
    "64 samples = 2 per micro-batch x 16 micro-batches x 2 data-parallel ranks; 12,000 iterations = 0.999 epochs of
    768,968 documents"
    """
    size = layout.global_batch_size(config.batch)
    epochs = config.batch.train_iters * size / rows_per_epoch
    return (
        f"{size} samples = {config.batch.micro_batch_size} per micro-batch x {layout.num_microbatches(config.batch)} "
        f"micro-batches x "
        f"{layout.dp} data-parallel ranks; {config.batch.train_iters:,} iterations = {epochs:.3f} epochs of "
        f"{documents:,} documents" + (f" in {rows_per_epoch:,.0f} packed rows" if config.data.packing else "")
    )
