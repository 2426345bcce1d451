"""Every setting of a training run, frozen, in groups. Each field is a YAML key and a flag of the same name.

    python -m megatron_train --help_all      prints each field with its unit and default, from the docstrings below

Names and meanings are Megatron-LLM's where it has them. Derived numbers, such as the micro-batches of an iteration, are
computed where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pretokenizer.chat.roles import Role

LOSS_ROLES = {
    "system": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "context": Role.CONTEXT,
    "tool": Role.TOOL,
}
"""Names that `loss_roles` accepts."""
ALL_ROLES = "all"
"""The value of `loss_roles` that selects every role."""


@dataclass(frozen=True)
class Parallel:
    """How the model and the batch are split over ranks."""

    tensor_model_parallel_size: int = 1
    """Ranks that share each weight matrix; must divide the heads, the groups and the MLP width."""
    pipeline_model_parallel_size: int = 1
    """Stages of consecutive layers; must divide num_layers."""
    virtual_pipeline_model_parallel_size: int | None = None
    """Model chunks per stage (interleaved schedule); needs micro-batches divisible by the pipeline size."""
    context_parallel_size: int = 1
    """Ranks that share each row. Only 1 works, because attention on torch's kernels exchanges no keys between ranks."""
    sequence_parallel: bool = False
    """Split activations of norms and residuals along the sequence over the tensor-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated weights while the next forward pass already runs; needs overlap_grad_reduce."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Device to compute on; auto = CUDA if there is a device for each rank here; default OASST_DEVICE, else auto."""
    distributed_timeout_minutes: float = 10.0
    """Minutes that a rank waits for another before the run ends."""


@dataclass(frozen=True)
class Model:
    """The architecture, its precision, dropout and recomputation."""

    model: str | None = None
    """Shipped architecture or YAML file, for a run without a checkpoint."""
    max_position_embeddings: int | None = None
    """Longest position; a larger number than the architecture's own allows longer rows than in pretraining."""
    hidden_dropout: float = 0.0
    """Residual dropout probability on attention and MLP outputs."""
    embedding_dropout: float | None = None
    """Dropout probability on embeddings; default hidden_dropout, and 0 with lima_dropout (Megatron-LLM)."""
    attention_dropout: float = 0.0
    """Dropout probability on attention weights."""
    lima_dropout: bool = False
    """Increase residual dropout linearly from 0 in the first layer to hidden_dropout in the last."""
    parallel_residual_dropout: Literal["separate", "sum"] = "separate"
    """Parallel-residual models: apply dropout to attention and MLP outputs each, or to their sum (Megatron-LLM)."""
    neftune_noise_alpha: float = 0.0
    """NEFTune: uniform noise on embeddings of alpha / sqrt(document tokens x hidden_size). 5 is usual, 0 = none."""
    recompute_granularity: Literal["selective", "full"] | None = None
    """Recompute attention or whole layers in the backward pass, to save memory."""
    recompute_method: Literal["uniform", "block"] | None = None
    """With full: recompute groups of recompute_num_layers layers, or only the first recompute_num_layers of a stage."""
    recompute_num_layers: int | None = None
    """Layers of recompute_method; uniform rounds down to a number that divides the layers of a stage."""
    bf16: bool = False
    """Train in bfloat16 with fp32 main weights and gradients."""
    fp16: bool = False
    """Train in float16 with dynamic loss scaling and fp32 main weights and gradients."""
    loss_chunk_size: int = 1024
    """Target tokens whose logits are in memory at the same time."""
    transformer_impl: Literal["local", "transformer_engine"] = "local"
    """Use torch's layers, or those of the package Transformer Engine (CUDA only; our tests do not run it)."""
    fp8_format: Literal["e4m3", "hybrid"] | None = None
    """Use FP8 matrix products, with transformer_engine and bf16; hybrid has e5m2 gradients."""
    fp8_recipe: Literal["delayed", "tensorwise", "blockwise", "mxfp8"] = "delayed"
    """Rule for FP8 scales, by megatron-core's names. The delayed scales are not saved in checkpoints."""
    fp8_margin: int = 0
    """Headroom of FP8 scales, as a power of two."""


@dataclass(frozen=True)
class Data:
    """Which shards the run reads, and how documents become rows."""

    data_path: tuple[str, ...] = ()
    """Shard prefix (without -text.bin), or weights and prefixes `w1 p1 w2 p2`, split again by `split`."""
    train_data_path: tuple[str, ...] = ()
    """Shard prefix (without -text.bin) to train on, or weights and prefixes `w1 p1 w2 p2`."""
    valid_data_path: tuple[str, ...] = ()
    """Shard prefixes to evaluate on, each by itself; `name=prefix` names a set."""
    test_data_path: tuple[str, ...] = ()
    """Shard prefixes to evaluate on once, at the end; named like valid_data_path."""
    split: str = "969,30,1"
    """Training, validation and test share of data_path."""
    seq_length: int = 2048
    """Longest row in tokens."""
    packing: bool = False
    """Fill each row with several documents that do not attend to each other, in place of padding."""
    packing_window: int = 16384
    """Number of documents among which packing looks for the best fit."""
    data_cache_path: str | None = None
    """Folder of packing plans, which runs may share. Default: `packing` in `save`."""
    overlong: Literal["truncate", "drop", "split", "random_window"] = "truncate"
    """What to do with documents of more than seq_length + 1 tokens. Their number is reported."""
    loss_roles: tuple[str, ...] = ("assistant",)
    """Roles whose tokens are targets: system, user, assistant, context; or all, also for shards without roles."""
    loss_alignment: Literal["label", "input"] = "label"
    """A position counts when its label (Megatron) or its input token (Open-Assistant's trainer) has a loss role."""
    last_turn_only: bool = False
    """Train only on the last run of tokens with a loss role in each document."""
    scalar_loss_mask: float = 0.0
    """Loss weight of document tokens outside loss_roles."""
    pad_to_multiple: int = 16
    """Padded rows have a multiple of this many tokens, but at most seq_length."""


@dataclass(frozen=True)
class Batch:
    """How many samples an iteration takes, and how many iterations the run."""

    micro_batch_size: int = 1
    """Rows per forward pass of one rank."""
    global_batch_size: int | None = None
    """Samples per iteration over all ranks. Default: the resumed checkpoint's, else one micro-batch a rank."""
    train_iters: int = 0
    """Iterations of the whole run, over all its launches; 0 = as many as train_epochs takes."""
    train_epochs: float | None = None
    """Epochs of the whole run, in place of train_iters. Default: 1."""
    loss_normalization: Literal["token", "micro_batch"] = "token"
    """Divide the loss by the target tokens of the global batch, or average micro-batch means (Megatron-LLM)."""
    seed: int = 1234
    """Seed of the data order, of dropout and of random initial weights."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW, clipping, skipped updates and the fp16 loss scale."""

    adam_beta1: float = 0.9
    """Decay rate of the first moment."""
    adam_beta2: float = 0.999
    """Decay rate of the second moment."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay; biases and norms have none."""
    clip_grad: float = 1.0
    """Global gradient norm above which gradients are scaled down; 0 = no clipping."""
    skip_iters: tuple[int, ...] = ()
    """Iterations, counted from 1, whose update is skipped."""
    skip_spike_sigma: float | None = None
    """Skip updates whose loss or gradient norm is this many standard deviations above the recent mean; 6 is usual."""
    skip_spike_window: int = 128
    """Number of recent iterations that skip_spike_sigma compares with."""
    max_not_finite: int = 100
    """End the run after this many consecutive iterations without a finite loss and gradient; 0 = never."""
    initial_loss_scale: float = 65536.0
    """fp16: first loss scale."""
    loss_scale_window: int = 1000
    """fp16: good steps before the scale doubles."""
    hysteresis: int = 2
    """fp16: overflows before the scale halves."""
    min_loss_scale: float = 1.0
    """fp16: the scale never falls below."""


@dataclass(frozen=True)
class LrSchedule:
    """Learning rate by the number of updates applied so far."""

    lr: float = 1e-5
    """Highest learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["cosine", "linear", "constant", "inverse-square-root"] = "cosine"
    """Shape of the decay after warm-up."""
    lr_decay_iters: int | None = None
    """Iterations until min_lr, warm-up included. Default: train_iters."""
    lr_warmup_iters: int = 0
    """Iterations of warm-up from 0."""
    lr_warmup_style: Literal["linear", "log"] = "linear"
    """Shape of the warm-up; log is that of DeepSpeed's WarmupLR."""


@dataclass(frozen=True)
class Checkpoint:
    """Where the run starts from, and where it saves."""

    load: str | None = None
    """Checkpoint folder to start from. A checkpoint of the same run in `save` takes precedence."""
    load_iters: int | None = None
    """Iteration to load. Default: the one that the tracker names."""
    use_checkpoint_args: bool = False
    """Take the architecture from the checkpoint."""
    finetune: bool = False
    """Start a new run from the weights alone: iteration 0, fresh optimizer, first sample."""
    no_load_optim: bool = False
    """Do not load optimizer state."""
    no_load_rng: bool = False
    """Do not load random state."""
    save: str | None = None
    """Folder to write checkpoints and `metrics.jsonl` to."""
    save_interval: int | None = None
    """Iterations between checkpoints. Default: only at the end."""
    save_total_limit: int | None = None
    """Number of newest checkpoints to keep, in addition to the best by validation loss. Default: all."""
    async_save: bool = False
    """Write checkpoints in a thread during training, from a copy in CPU memory of the rank's part."""


@dataclass(frozen=True)
class Evaluation:
    """Validation during training."""

    eval_interval: int | None = None
    """Iterations between evaluations. Default: only at the end."""
    eval_iters: int | None = None
    """Global batches of each evaluation; 0 = no evaluation. Default: all validation documents once."""


@dataclass(frozen=True)
class Logging:
    """What the run reports, and when it stops early."""

    log_interval: int = 10
    """Iterations between console lines."""
    tensorboard_dir: str | None = None
    """Folder for TensorBoard event files."""
    wandb_logger: bool = False
    """Log to Weights & Biases (WANDB_API_KEY from the environment, or `wandb login`)."""
    wandb_project: str = "oasst-megatron"
    """Project name in Weights & Biases."""
    exit_interval: int | None = None
    """Save and stop at every multiple of this many iterations."""
    exit_duration_in_mins: float | None = None
    """Save and stop this many minutes after the process started."""
    exit_code_on_signal: int = 0
    """Exit code after a signal asked the run to stop and it saved a checkpoint."""
    timing_log_level: int = 0
    """1 = report the seconds of each phase of an iteration."""
    profile_iters: tuple[int, ...] = ()
    """First and last iteration that the torch profiler traces to save/profile."""
    peak_tflops: float | None = None
    """Peak TFLOP/s of one device, for MFU. Default: from a table of known devices."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run."""

    parallel: Parallel = field(default_factory=Parallel)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    batch: Batch = field(default_factory=Batch)
    optimizer: Optimizer = field(default_factory=Optimizer)
    lr_schedule: LrSchedule = field(default_factory=LrSchedule)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    evaluation: Evaluation = field(default_factory=Evaluation)
    logging: Logging = field(default_factory=Logging)
