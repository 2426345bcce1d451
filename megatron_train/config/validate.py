"""Check the settings of a run, and raise one error that lists every problem."""

from __future__ import annotations

from megatron_train.config.flags import CommandLine
from megatron_train.config.foreign_flags import ARCHITECTURE
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.ranges import range_problems
from megatron_train.config.settings import ALL_ROLES, LOSS_ROLES, TrainConfig
from pretokenizer.config.yaml_config import ConfigError


def validate(command: CommandLine, layout: ParallelLayout, is_training: bool = True) -> None:
    """Check the settings of a run, each alone, against each other and against the parallel layout.

    Without `is_training`, as for the command `evaluate`, the settings need not name training data. Raises ConfigError
    with one line for each problem. If the layout itself is impossible, the lines are about the layout alone.
    """
    problems = layout.problems()
    if not problems:
        problems = [
            *range_problems(command.config),
            *_batch_problems(command.config, layout),
            *_data_problems(command.config, is_training),
            *_setting_problems(command.config),
        ]
    if problems:
        raise ConfigError("\n".join(problems))


def validate_batch(config: TrainConfig, layout: ParallelLayout) -> None:
    """Check that the layout can divide the global batch, which a resumed run may take from its checkpoint.

    Raises ConfigError when it cannot.
    """
    problems = _batch_problems(config, layout)
    if problems:
        raise ConfigError(
            "\n".join(problems)
            + "; this batch is that of the resumed checkpoint, and --global_batch_size N gives another"
        )


def validate_model(command: CommandLine, model: ModelConfig, layout: ParallelLayout) -> None:
    """Check the model against the layout and the flags.

    Raises ConfigError when the layout cannot split the model, when the trainer cannot compute it, when rows are longer
    than its positions, or when a flag describes another model.
    """
    problems = []
    if model.untrainable_part:
        problems.append(
            f"{model.untrainable_part} can be converted but not trained; train with rope_scaling_type none, linear, "
            "llama3 or yarn"
        )
    for name, size in (
        ("num_attention_heads", model.num_attention_heads),
        ("ffn_hidden_size", model.ffn_hidden_size),
        ("padded_vocab_size", model.padded_vocab),
    ):
        if size % layout.tp:
            problems.append(
                f"tensor_model_parallel_size {layout.tp} does not divide {name} {size}; "
                f"{_divisors(size, layout.world_size)}"
            )
    if model.query_groups % layout.tp and layout.tp % model.query_groups:
        problems.append(
            f"tensor_model_parallel_size {layout.tp} and num_query_groups {model.query_groups}: one must divide the "
            f"other"
        )
    problems += layout.split_problems(model.num_layers)
    if command.config.data.seq_length > model.max_position_embeddings:
        problems.append(
            f"seq_length {command.config.data.seq_length} exceeds the model's max_position_embeddings "
            f"{model.max_position_embeddings}; --max_position_embeddings raises it beyond what it was pretrained on"
        )
    positions = command.config.model.max_position_embeddings
    if positions is not None and positions < model.max_position_embeddings:
        problems.append(
            f"max_position_embeddings {positions} is below the model's {model.max_position_embeddings}: leave it out"
        )
    for name, value in command.claims.items():
        if not ARCHITECTURE[name][1](model, value):
            problems.append(
                f"--{name}{'' if value is None else ' ' + value} does not describe the model that is loaded "
                f"({model.family}, {model.num_layers} layers)"
            )
    if problems:
        raise ConfigError("\n".join(problems))


def _divisors(size: int, world: int) -> str:
    return f"sizes that do: {', '.join(str(n) for n in range(1, max(world, 2) + 1) if size % n == 0)}"


def _batch_problems(config: TrainConfig, layout: ParallelLayout) -> list[str]:
    batch, found = config.batch, []
    if batch.train_iters and batch.train_epochs:
        found.append(f"train_epochs {batch.train_epochs} and train_iters {batch.train_iters} exclude each other")
    if batch.micro_batch_size < 1:
        return found
    size, step = layout.global_batch_size(config.batch), batch.micro_batch_size * layout.dp
    if size % step:
        found.append(
            f"global_batch_size {size} is not a multiple of micro_batch_size {batch.micro_batch_size} x "
            f"data-parallel size {layout.dp} = {step}"
        )
    elif layout.vpp > 1 and (size // step) % layout.pp:
        found.append(
            f"virtual pipeline stages need micro-batches ({size // step}) divisible by pipeline_model_parallel_size "
            f"{layout.pp}"
        )
    return found


def _data_problems(config: TrainConfig, is_training: bool) -> list[str]:
    data, found = config.data, []
    if is_training and not data.data_path and not data.train_data_path:
        found.append("no training data: give --data_path PREFIX (re-split) or --train_data_path PREFIX")
    if data.data_path and data.train_data_path:
        found.append("data_path and train_data_path exclude each other: the first is split, the second is not")
    unknown = [role for role in data.loss_roles if role not in LOSS_ROLES and role != ALL_ROLES]
    if unknown or not data.loss_roles:
        found.append(f"loss_roles {' '.join(data.loss_roles)!r}: choose among {', '.join(LOSS_ROLES)}, {ALL_ROLES}")
    tp = config.parallel.tensor_model_parallel_size
    if config.parallel.sequence_parallel and tp > 1:
        if data.seq_length % tp:
            found.append(
                f"sequence_parallel needs seq_length {data.seq_length} divisible by tensor_model_parallel_size {tp}"
            )
        if not data.packing and data.pad_to_multiple % tp:
            found.append(
                f"sequence_parallel needs pad_to_multiple {data.pad_to_multiple} divisible by "
                f"tensor_model_parallel_size {tp}"
            )
    return found


def _setting_problems(config: TrainConfig) -> list[str]:
    model, schedule, found = config.model, config.lr_schedule, []
    if model.bf16 and model.fp16:
        found.append("bf16 and fp16 exclude each other")
    if model.lima_dropout and model.hidden_dropout == 0:
        found.append("lima_dropout needs hidden_dropout above 0: the rate of the last layer (the card uses 0.25)")
    if model.recompute_granularity == "full" and (model.recompute_method is None or not model.recompute_num_layers):
        found.append("recompute_granularity full needs recompute_method (uniform or block) and recompute_num_layers")
    if model.recompute_granularity != "full" and (model.recompute_method or model.recompute_num_layers):
        found.append("recompute_method and recompute_num_layers go with recompute_granularity full")
    if not schedule.min_lr <= schedule.lr:
        found.append(f"min_lr {schedule.min_lr} exceeds lr {schedule.lr}; it must be at least 0 and at most lr")
    if 0 < (schedule.lr_decay_iters or 0) < schedule.lr_warmup_iters:
        found.append(
            f"lr_warmup_iters {schedule.lr_warmup_iters} exceeds lr_decay_iters {schedule.lr_decay_iters}, which "
            "counts from the start of the run; give a longer decay or a shorter warm-up"
        )
    if config.parallel.context_parallel_size != 1:
        found.append(
            "context_parallel_size must be 1: megatron-core's local attention has no context parallelism, and rows are "
            "not split for Transformer Engine's; use tensor_model_parallel_size with sequence_parallel for long rows"
        )
    found += [*_fp8_problems(config), *_iteration_problems(config)]
    if config.parallel.overlap_param_gather and not config.parallel.overlap_grad_reduce:
        found.append("overlap_param_gather needs overlap_grad_reduce")
    return found + _checkpoint_problems(config)


def _checkpoint_problems(config: TrainConfig) -> list[str]:
    checkpoint, logging, found = config.checkpoint, config.logging, []
    if checkpoint.save is None:
        if checkpoint.save_interval is not None:
            found.append("save_interval needs --save DIR")
        for name, value in (
            ("exit_interval", logging.exit_interval),
            ("exit_duration_in_mins", logging.exit_duration_in_mins),
        ):
            if value is not None:
                found.append(f"{name} needs --save DIR: the run would stop early and lose its work")
    if checkpoint.load is None:
        for name, is_given in (
            ("use_checkpoint_args", checkpoint.use_checkpoint_args),
            ("finetune", checkpoint.finetune),
            ("load_iters", checkpoint.load_iters is not None),
        ):
            if is_given:
                found.append(f"{name} needs --load DIR")
    return found


def _iteration_problems(config: TrainConfig) -> list[str]:
    found = []
    if config.optimizer.skip_iters and min(config.optimizer.skip_iters) < 1:
        found.append(f"skip_iters {_words(config.optimizer.skip_iters)}: iterations are counted from 1")
    span = config.logging.profile_iters
    if span and not (len(span) == 2 and 1 <= span[0] <= span[1]):
        found.append(f"profile_iters {_words(span)}: give the first and the last iteration to record, counted from 1")
    return found


def _words(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def _fp8_problems(config: TrainConfig) -> list[str]:
    model, data, found = config.model, config.data, []
    if model.fp8_format is None:
        return []
    if model.transformer_impl != "transformer_engine" or not model.bf16:
        found.append("fp8_format needs transformer_impl transformer_engine and bf16")
    tokens = 16 * (config.parallel.tensor_model_parallel_size if config.parallel.sequence_parallel else 1)
    for name, size in (("seq_length", data.seq_length), ("pad_to_multiple", data.pad_to_multiple)):
        if size % tokens and not (name == "pad_to_multiple" and data.packing):
            found.append(
                f"fp8_format needs {name} {size} to be a multiple of {tokens}: FP8 products take 16 tokens a rank"
            )
    return found
