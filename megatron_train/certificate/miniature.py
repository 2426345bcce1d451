"""Shrink a run so that a few CPU processes can train it, but keep everything that a parallel layout depends on.

The model keeps its family, norms, biases, activation, rotary kind, tied embeddings, ratio of query heads to key/value
heads, key/value heads for each tensor-parallel rank, sliding window and padded vocabulary. The settings keep packing,
recomputation, precision, clipping, weight decay and the rules of the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from megatron_train.certificate.layouts import NamedLayout
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import (
    Checkpoint,
    Evaluation,
    Logging,
    LrSchedule,
    Model,
    Parallel,
    TrainConfig,
)
from pretokenizer.config.yaml_config import ConfigError

HEAD_DIM = 8
VOCABULARY, PADDED_VOCABULARY = 1000, 1024
SEQ_LENGTH = 128
ITERATIONS = 3
LEAST_LAYERS, MOST_LAYERS = 4, 64


@dataclass(frozen=True)
class LayoutPair:
    """A layout of the user's run, and the layout in which the small model runs."""

    asked: NamedLayout
    small: NamedLayout


def small_model(model: ModelConfig, layouts: list[LayoutPair], seq_length: int) -> ModelConfig:
    """Return a small model with the options of `model` that fits all `layouts`.

    `seq_length` is that of the user's run. A sliding window keeps its share of the row.
    """
    ranks = [pair.small.ranks for pair in layouts]
    tp = math.lcm(*(each.tp for each in ranks))
    heads, groups = small_heads(model, max(pair.asked.ranks.tp for pair in layouts), tp)
    width = model.hidden_size / (model.num_attention_heads * model.head_dim)
    hidden = max(1, round(heads * HEAD_DIM * width / 16)) * 16
    window = model.sliding_window
    if window is not None and window < seq_length:
        window = max(2, small_row(seq_length) * window // seq_length)
    return replace(
        model,
        num_layers=small_depth(ranks),
        hidden_size=hidden,
        ffn_hidden_size=tp * -(-3 * hidden // tp),
        num_attention_heads=heads,
        num_query_groups=groups,
        kv_channels=HEAD_DIM,
        sliding_window=window,
        vocab_size=VOCABULARY if model.padded_vocab > model.vocab_size else PADDED_VOCABULARY,
        padded_vocab_size=PADDED_VOCABULARY,
    )


def small_depth(layouts: list[ParallelLayout]) -> int:
    """Return the smallest number of layers that each layout can split.

    A layout that sets the number of layers of its first or last stage must split them unevenly. Raises ConfigError when
    no number fits all layouts.
    """
    for number in range(LEAST_LAYERS, MOST_LAYERS + 1):
        if all(_splits(layout, number) for layout in layouts):
            return number
    raise ConfigError("no number of layers of a small model fits all layouts; run fewer --layouts at once")


def _splits(layout: ParallelLayout, num_layers: int) -> bool:
    if layout.split_problems(num_layers):
        return False
    is_uneven = layout.first_layers is not None or layout.last_layers is not None
    return not is_uneven or len(set(layout.stage_layers(num_layers))) > 1


def small_heads(model: ModelConfig, asked_tp: int, tp: int) -> tuple[int, int]:
    """Return (attention heads, key/value heads) of the small model, whose layout has `tp` tensor-parallel ranks.

    The ratio of the two numbers stays. If each of the `asked_tp` tensor-parallel ranks of the user's run holds several
    key/value heads, one head or a copy of one, so does each rank of the small run, where possible.
    """
    heads, groups = model.num_attention_heads, model.query_groups
    if groups == 1:
        return max(4, 2 * tp), 1
    per_rank, copies = groups // asked_tp, asked_tp // groups
    small = tp * min(per_rank, 2) if per_rank else max(1, tp // copies)
    per_group = heads // groups
    if small * per_group % tp:  # the copies cannot be kept
        small = tp
    if small * per_group < 4:
        small *= 4 // (small * per_group)
    return small * per_group, small


def small_row(seq_length: int) -> int:
    """Return the length of a row of the small run: that of the user's run, but at most SEQ_LENGTH."""
    return min(seq_length, SEQ_LENGTH)


def micro_batches(config: TrainConfig, pair: LayoutPair) -> int:
    """Return how many micro-batches a data-parallel rank of the small run has in an iteration.

    It is the number of the user's run, but at most two per pipeline stage, and two per stage without
    --global_batch_size. With interleaving, it is a multiple of the number of stages.
    """
    stages = pair.small.ranks.pp
    asked = pair.asked.ranks.num_microbatches(config.batch) if config.batch.global_batch_size else 2 * stages
    number = max(1, min(asked, 2 * stages))
    return max(stages, number // stages * stages) if pair.small.ranks.vpp > 1 else number


def small_config(config: TrainConfig, prefix: str, num_micro_batches: int) -> TrainConfig:
    """Return the settings of the one-process run of the small model, on the shard `prefix`.

    An iteration has `num_micro_batches` micro-batches. AdamW has a large eps, so that an update is proportional to its
    gradient and a wrong factor shows.
    """
    model, micro = config.model, min(config.batch.micro_batch_size, 2)
    return TrainConfig(
        parallel=Parallel(device="cpu"),
        model=replace(
            without_randomness(model),
            model=None,
            max_position_embeddings=None,
            recompute_granularity=None,
            recompute_method=None,
            recompute_num_layers=None,
            transformer_impl="local",
            fp8_format=None,
        ),
        data=replace(
            config.data,
            data_path=(),
            train_data_path=(prefix,),
            valid_data_path=(),
            test_data_path=(),
            seq_length=small_row(config.data.seq_length),
            overlong="truncate",
            data_cache_path=None,
        ),
        batch=replace(
            config.batch,
            micro_batch_size=micro,
            global_batch_size=micro * num_micro_batches,
            train_iters=ITERATIONS,
            train_epochs=None,
        ),
        optimizer=replace(
            config.optimizer,
            adam_eps=1.0,
            skip_iters=(),
            skip_spike_sigma=None,
            initial_loss_scale=min(config.optimizer.initial_loss_scale, 1024.0),
        ),
        lr_schedule=LrSchedule(lr=0.3, lr_decay_style="constant"),
        checkpoint=Checkpoint(),
        evaluation=Evaluation(eval_iters=0),
        logging=Logging(),
    )


def without_randomness(model: Model) -> Model:
    """Return the settings without dropout and noise, whose random numbers differ between layouts."""
    return replace(
        model,
        hidden_dropout=0.0,
        embedding_dropout=None,
        attention_dropout=0.0,
        lima_dropout=False,
        neftune_noise_alpha=0.0,
    )


def in_layout(small: TrainConfig, layout: NamedLayout, asked: Model) -> TrainConfig:
    """Return the one-process settings `small` in a parallel layout, with the recomputation of the user's run.

    `asked` has the user's model settings. Its number of layers to recompute becomes 1.
    """
    parallel = replace(layout.parallel, device="cpu", distributed_timeout_minutes=10.0)
    model = replace(
        small.model,
        recompute_granularity=asked.recompute_granularity,
        recompute_method=asked.recompute_method,
        recompute_num_layers=asked.recompute_num_layers and 1,
    )
    return replace(small, parallel=parallel, model=model)


def in_precision(small: TrainConfig, precision: str) -> TrainConfig:
    """Return the settings in the precision fp32, bf16 or fp16."""
    return replace(small, model=replace(small.model, bf16=precision == "bf16", fp16=precision == "fp16"))
