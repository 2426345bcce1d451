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
"""Names that the setting `loss_roles` accepts -> role id."""
ALL_ROLES = "all"
"""The value of the setting `loss_roles` that selects every role."""


@dataclass(frozen=True)
class Parallel:
    """How the model and the batch are split over ranks."""

    tensor_model_parallel_size: int = 1
    """Ranks that share each weight matrix; must divide the attention heads and the MLP width."""
    pipeline_model_parallel_size: int = 1
    """Pipeline stages of consecutive layers; must divide num_layers, or the other stages' layers."""
    decoder_first_pipeline_num_layers: int | None = None
    """Layers of the first pipeline stage, which also has the embedding. Default: as many as the other stages."""
    decoder_last_pipeline_num_layers: int | None = None
    """Layers of the last pipeline stage, which also has the output layer. Default: as many as the other stages."""
    virtual_pipeline_model_parallel_size: int | None = None
    """Model chunks per pipeline stage (interleaved schedule); the micro-batches must be a multiple of the stages."""
    context_parallel_size: int = 1
    """Ranks that share each row. Only 1 works, because attention on torch's kernels exchanges no keys between ranks."""
    sequence_parallel: bool = False
    """Split activations of norms and residuals along the sequence over the tensor-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated weights while the next forward pass already runs; needs overlap_grad_reduce."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Device to compute on; auto = CUDA if each rank of this node has one, else CPU. Default: OASST_DEVICE, or auto."""
    distributed_timeout_minutes: float = 10.0
    """Minutes that a rank waits for another rank before the run fails."""


@dataclass(frozen=True)
class Model:
    """The architecture, its precision, dropout and recomputation."""

    model: str | None = None
    """Name of a shipped architecture, or a YAML file, for a run without a checkpoint."""
    max_position_embeddings: int | None = None
    """Most positions of a row. A larger number than the architecture's own allows longer rows than in pretraining."""
    hidden_dropout: float = 0.0
    """Residual dropout probability on attention and MLP outputs."""
    embedding_dropout: float | None = None
    """Dropout probability on embeddings; default hidden_dropout, and 0 with lima_dropout (Megatron-LLM)."""
    attention_dropout: float = 0.0
    """Dropout probability on attention weights."""
    lima_dropout: bool = False
    """Increase residual dropout linearly from 0 in the first layer to hidden_dropout in the last."""
    parallel_residual_dropout: Literal["separate", "sum"] = "separate"
    """Parallel-residual models: drop attention and MLP outputs separately, or their sum (Megatron-LLM)."""
    neftune_noise_alpha: float = 0.0
    """NEFTune: uniform noise on embeddings of alpha / sqrt(document tokens x hidden_size). 5 is usual, 0 = none."""
    recompute_granularity: Literal["selective", "full"] | None = None
    """Recompute attention (selective) or whole layers (full) in the backward pass, to save memory."""
    recompute_method: Literal["uniform", "block"] | None = None
    """With full: uniform recomputes all layers in groups of recompute_num_layers, block that many of each stage."""
    recompute_num_layers: int | None = None
    """Layers of a group (uniform, rounded down to a divisor of a stage's layers) or of a stage (block) to recompute."""
    bf16: bool = False
    """Train in bfloat16 with fp32 main weights and gradients."""
    fp16: bool = False
    """Train in float16 with dynamic loss scaling and fp32 main weights and gradients."""
    loss_chunk_size: int = 1024
    """Number of target tokens whose logits are in memory at the same time."""
    compile: bool = False
    """Fuse rotary embeddings, SwiGLU, and sums with norms by torch.compile; a minute longer at the start of a run."""
    transformer_impl: Literal["local", "transformer_engine"] = "local"
    """Use torch's layers (local) or those of the package Transformer Engine (CUDA only; our tests do not run it)."""
    fp8_format: Literal["e4m3", "hybrid"] | None = None
    """Number format of FP8 matrix products; hybrid has gradients in e5m2. Needs transformer_engine and bf16."""
    fp8_recipe: Literal["delayed", "tensorwise", "blockwise", "mxfp8"] = "delayed"
    """Rule for FP8 scales, by megatron-core's names. The scales of `delayed` are not saved in checkpoints."""
    fp8_margin: int = 0
    """Headroom of FP8 scales, as an exponent of 2."""

    def recompute_group(self, layers: int) -> int | None:
        """Return the recompute_num_layers that megatron-core gets for a model chunk of `layers` layers.

        It is None if the setting is None. For uniform, it is the largest divisor of `layers` up to the setting, because
        megatron-core overruns the chunk with any other number. For block, it is the setting itself.
        """
        asked = self.recompute_num_layers
        if asked is None or self.recompute_method != "uniform":
            return asked
        return max(size for size in range(1, min(asked, layers) + 1) if layers % size == 0)


@dataclass(frozen=True)
class Data:
    """Which shards the run reads, and how documents become rows."""

    data_path: tuple[str, ...] = ()
    """Shard prefix (without -text.bin) or `weight prefix` pairs, for training, validation and test by `split`."""
    train_data_path: tuple[str, ...] = ()
    """Shard prefix (without -text.bin) or `weight prefix` pairs, to train on all of the documents."""
    valid_data_path: tuple[str, ...] = ()
    """Shard prefixes to evaluate on during training, each separately. `name=prefix` names a set."""
    test_data_path: tuple[str, ...] = ()
    """Shard prefixes to evaluate on once, after training, each separately. `name=prefix` names a set."""
    split: str = "969,30,1"
    """Shares of data_path's documents for training, validation and test."""
    seq_length: int = 2048
    """Length of the longest row, in tokens."""
    packing: bool = False
    """Fill each row with several documents that do not attend to each other, in place of padding."""
    packing_window: int = 16384
    """Number of documents among which packing looks for the best fit."""
    data_cache_path: str | None = None
    """Folder of packing plans, which several runs may share. Default: `packing` in `save`."""
    overlong: Literal["truncate", "drop", "split", "random_window"] = "truncate"
    """Cut, drop or split documents of more than seq_length + 1 tokens, or train on a random window of each."""
    loss_roles: tuple[str, ...] = ("assistant",)
    """Roles whose tokens are targets: system, user, assistant, context, tool; or all, also for shards without roles."""
    loss_alignment: Literal["label", "input"] = "label"
    """A position has loss when its label (Megatron) or its input token (Open-Assistant's trainer) has a loss role."""
    last_turn_only: bool = False
    """Train only on the last run of tokens with a loss role in each document."""
    scalar_loss_mask: float = 0.0
    """Loss weight of document tokens outside loss_roles; tokens of loss_roles have 1."""
    pad_to_multiple: int = 16
    """Padded rows have a multiple of this many positions, but at most seq_length."""


@dataclass(frozen=True)
class Batch:
    """How many samples an iteration takes, and how many iterations the run has."""

    micro_batch_size: int = 1
    """Rows in one forward pass of a rank."""
    global_batch_size: int | None = None
    """Samples per iteration over all ranks. Default: the resumed checkpoint's, else micro_batch_size per model copy."""
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
    """AdamW, gradient clipping, skipped updates and the fp16 loss scale."""

    adam_beta1: float = 0.9
    """Decay rate of Adam's first moment, the mean of gradients."""
    adam_beta2: float = 0.999
    """Decay rate of Adam's second moment, the mean of squared gradients."""
    adam_eps: float = 1e-8
    """Number that Adam adds to the square root of the second moment."""
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
    """fp16: loss scale of the first iteration."""
    loss_scale_window: int = 1000
    """fp16: consecutive iterations without overflow after which the loss scale doubles."""
    hysteresis: int = 2
    """fp16: overflows after which the loss scale halves."""
    min_loss_scale: float = 1.0
    """fp16: smallest loss scale."""


@dataclass(frozen=True)
class LrSchedule:
    """Learning rate as a function of the number of updates applied so far."""

    lr: float = 1e-5
    """Highest learning rate, at the end of warm-up."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["cosine", "linear", "constant", "inverse-square-root"] = "cosine"
    """Shape of the decay from lr to min_lr after warm-up."""
    lr_decay_iters: int | None = None
    """Iterations until the learning rate is min_lr, warm-up included. Default: train_iters."""
    lr_warmup_iters: int = 0
    """Iterations in which the learning rate rises from 0 to lr."""
    lr_warmup_style: Literal["linear", "log"] = "linear"
    """Shape of the warm-up; log has the shape of DeepSpeed's WarmupLR."""


@dataclass(frozen=True)
class Checkpoint:
    """Which checkpoint the run starts from, and where it saves its own."""

    load: str | None = None
    """Checkpoint folder to start from. A checkpoint of the same run in `save` takes precedence."""
    load_iters: int | None = None
    """Iteration of the checkpoint to load. Default: the one in latest_checkpointed_iteration.txt."""
    use_checkpoint_args: bool = False
    """Take the architecture from the checkpoint in `load`."""
    finetune: bool = False
    """Start a new run from the weights alone: iteration 0, fresh optimizer, first sample."""
    no_load_optim: bool = False
    """Do not load the optimizer state from the checkpoint."""
    no_load_rng: bool = False
    """Do not load the state of the random generators from the checkpoint."""
    save: str | None = None
    """Folder to write checkpoints and `metrics.jsonl` to."""
    save_interval: int | None = None
    """Iterations between checkpoints. Default: only one checkpoint, at the end."""
    save_total_limit: int | None = None
    """Number of newest checkpoints to keep, in addition to the best by validation loss. Default: keep all."""
    async_save: bool = False
    """Write checkpoints in a thread during training, from a copy of the rank's part in CPU memory."""


@dataclass(frozen=True)
class Evaluation:
    """How often the run evaluates on the validation data, and on how much of it."""

    eval_interval: int | None = None
    """Iterations between evaluations. Default: only one evaluation, at the end."""
    eval_iters: int | None = None
    """Number of global batches in each evaluation; 0 = no evaluation. Default: all validation documents once."""


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
    metric_names: Literal["megatron", "hf"] = "megatron"
    """Names of the curves in TensorBoard and Weights & Biases: `lm loss` (megatron) or `train/loss` (hf)."""
    exit_interval: int | None = None
    """Save and stop at the next iteration that is a multiple of this number."""
    exit_duration_in_mins: float | None = None
    """Save and stop this many minutes after the process started."""
    exit_code_on_signal: int = 0
    """Exit code of a run that a signal stopped, after it saved a checkpoint."""
    timing_log_level: int = 0
    """1 = report how many seconds each phase of an iteration takes."""
    profile_iters: tuple[int, ...] = ()
    """First and last iteration that the torch profiler records, to the folder `profile` in `save`."""
    peak_tflops: float | None = None
    """Peak TFLOP/s of one device, to compute MFU. Default: from a table of known devices."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run, in groups."""

    parallel: Parallel = field(default_factory=Parallel)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    batch: Batch = field(default_factory=Batch)
    optimizer: Optimizer = field(default_factory=Optimizer)
    lr_schedule: LrSchedule = field(default_factory=LrSchedule)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    evaluation: Evaluation = field(default_factory=Evaluation)
    logging: Logging = field(default_factory=Logging)
