"""What a run prints before its first iteration: the settings, the model, the batch and the data."""

from __future__ import annotations

from megatron_train.config.flags import CommandLine, config_table
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.data.sft_dataset import Samples
from megatron_train.model.attention import planned_kernel
from megatron_train.optim.optimizer import adam_name
from megatron_train.parallel.rank_devices import describe_devices
from megatron_train.report.console import say, warn


def announce(command: CommandLine, model: ModelConfig, layout: ParallelLayout) -> None:
    """Print the settings, the flags without effect, the model with its layout, the devices and the kernels.

    All ranks call this function.
    """
    say(config_table(command.config))
    if command.ignored:
        say("without effect here: " + "; ".join(f"--{name} ({reason})" for name, reason in command.ignored.items()))
    for line in differences_from_megatron_llm(command.config):
        say(line)
    say(
        f"{model.family} with {model.num_parameters():,} parameters ({model.num_layers} layers, hidden "
        f"{model.hidden_size}, vocabulary "
        f"{model.vocab_size:,} padded to {model.padded_vocab:,}) on {layout.world_size} processes: TP {layout.tp} x "
        f"PP {layout.pp} x DP {layout.dp}"
    )
    say(f"on {describe_devices()}; attention kernel {planned_kernel(model, command.config)}; Adam {adam_name()}")


def differences_from_megatron_llm(config: TrainConfig) -> list[str]:
    """Return a line for each setting that behaves in a way which users of Megatron-LLM may not expect."""
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


def announce_data(config: TrainConfig, layout: ParallelLayout, samples: Samples, evaluated: dict[str, Samples]) -> None:
    """Print the batch and the epochs, warn about over-long documents, and print how well packing fills the rows."""
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


def describe_batch(config: TrainConfig, layout: ParallelLayout, documents: int, rows_per_epoch: float) -> str:
    """Return how the global batch is made up, and how many epochs the run takes.

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
