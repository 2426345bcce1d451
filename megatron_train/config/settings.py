"""TrainConfig: every setting of a training run, frozen, in groups. Each field is a YAML key and a flag of the same
name.

    python -m megatron_train --help          prints each field with its unit and default, from the docstrings below

Names and meanings are Megatron-LLM's where it has them. What is derived (number of micro-batches, data-parallel size)
is a property or is printed; nothing is changed after loading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pretokenizer.chat.roles import Role

LOSS_ROLES = {"system": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT, "context": Role.CONTEXT}
"""Names that `loss_roles` accepts."""


@dataclass(frozen=True)
class Parallel:
    """How the model and the batch are spread over ranks."""

    tensor_model_parallel_size: int = 1
    """Ranks that share each weight matrix; must divide heads, groups and MLP width."""
    pipeline_model_parallel_size: int = 1
    """Stages of consecutive layers; must divide num_layers."""
    virtual_pipeline_model_parallel_size: int | None = None
    """Model chunks per stage (interleaved schedule); needs micro-batches divisible by the pipeline size."""
    context_parallel_size: int = 1
    """Ranks that share each row; only 1: attention on torch's kernels has no exchange of keys between ranks."""
    sequence_parallel: bool = False
    """Split activations of norms and residuals along the sequence over the tensor-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated weights while the forward pass already runs (needs overlap_grad_reduce)."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Device to compute on; auto = CUDA if there is a device for each rank here; default OASST_DEVICE, else auto."""
    distributed_timeout_minutes: float = 10.0
    """Minutes after which a rank that waits for another gives up."""


@dataclass(frozen=True)
class Model:
    """The architecture and what training does to it."""

    model: str | None = None
    """Architecture file (configs/model/*.yaml) where no checkpoint gives one."""
    max_position_embeddings: int | None = None
    """Positions of the model; above the architecture's own, rows may be longer than it was pretrained on (rotary)."""
    hidden_dropout: float = 0.0
    """Residual dropout probability on attention and MLP outputs."""
    embedding_dropout: float | None = None
    """Dropout probability on embeddings; default hidden_dropout, and 0 with lima_dropout (Megatron-LLM)."""
    attention_dropout: float = 0.0
    """Dropout probability on attention weights."""
    lima_dropout: bool = False
    """Residual dropout grows linearly from 0 in the first layer to hidden_dropout in the last; none on embeddings."""
    parallel_residual_dropout: Literal["separate", "sum"] = "separate"
    """Parallel-residual models: dropout on attention and MLP outputs each, or once on their sum (Megatron-LLM)."""
    neftune_noise_alpha: float = 0.0
    """NEFTune: uniform noise on embeddings of alpha / sqrt(tokens of the row x hidden_size); 5 is usual, 0 = none."""
    recompute_granularity: Literal["selective", "full"] | None = None
    """Activations recomputed in the backward pass: attention only, or whole layers."""
    recompute_method: Literal["uniform", "block"] | None = None
    """With full: chunks of recompute_num_layers layers each, or only the first recompute_num_layers of a stage."""
    recompute_num_layers: int | None = None
    """Layers, see recompute_method; uniform takes the next lower number that divides the layers of a stage."""
    bf16: bool = False
    """Train in bfloat16 with fp32 main weights and gradients."""
    fp16: bool = False
    """Train in float16 with dynamic loss scaling and fp32 main weights and gradients."""
    transformer_impl: Literal["local", "transformer_engine"] = "local"
    """Layers on torch alone, or Transformer Engine's (a package of its own; CUDA only; not run by our tests)."""
    fp8_format: Literal["e4m3", "hybrid"] | None = None
    """With transformer_engine and bf16: FP8 matrix products; hybrid has e5m2 gradients."""
    fp8_recipe: Literal["delayed", "tensorwise", "blockwise", "mxfp8"] = "delayed"
    """How FP8 scales are found, as megatron-core names it; delayed scales start anew with every launch."""
    fp8_margin: int = 0
    """FP8: powers of two of headroom in the scales."""


@dataclass(frozen=True)
class Data:
    """Which shards, in what order, in what shape."""

    data_path: tuple[str, ...] = ()
    """One shard prefix (up to and without -text.bin), or weights and prefixes `w1 p1 w2 p2`; re-split by `split`."""
    train_data_path: tuple[str, ...] = ()
    """As data_path, for training only and without a split."""
    valid_data_path: tuple[str, ...] = ()
    """Shard prefixes to evaluate on, each on its own; `name=prefix` gives it a name."""
    test_data_path: tuple[str, ...] = ()
    """As valid_data_path, evaluated once at the end."""
    split: str = "969,30,1"
    """Train, validation and test share of data_path."""
    seq_length: int = 2048
    """Longest row in tokens."""
    packing: bool = False
    """Fill rows of seq_length with whole documents that do not see one another; else one padded document a row."""
    packing_window: int = 16384
    """Documents among which packing looks for the best fit."""
    data_cache_path: str | None = None
    """Folder for packing plans, to share them between runs; default `packing` in `save`."""
    overlong: Literal["truncate", "drop", "split", "random_window"] = "truncate"
    """What happens to documents above seq_length + 1 tokens; counted and reported."""
    loss_roles: tuple[str, ...] = ("assistant",)
    """Roles whose tokens are trained on: system, user, assistant, context."""
    loss_alignment: Literal["label", "input"] = "label"
    """A position counts when its label (Megatron) or its input token (Open-Assistant's HF trainer) has a loss role."""
    last_turn_only: bool = False
    """Train only on the last run of tokens with a loss role in each document."""
    scalar_loss_mask: float = 0.0
    """Loss weight of the real tokens outside loss_roles."""
    pad_to_multiple: int = 16
    """Padded rows are rounded up to a multiple of this many tokens (never above seq_length)."""


@dataclass(frozen=True)
class Batch:
    """How many samples an iteration takes."""

    micro_batch_size: int = 1
    """Rows per forward pass of one rank."""
    global_batch_size: int | None = None
    """Samples per iteration over all ranks; default micro_batch_size x data-parallel size."""
    train_iters: int = 0
    """Iterations of the whole run, those of earlier launches included."""
    loss_normalization: Literal["token", "micro_batch"] = "token"
    """Divide by the target tokens of the global batch, or average the means of micro-batches (Megatron-LLM)."""
    seed: int = 1234
    """Seeds the data order, dropout and random initial weights."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW."""

    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.999
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled; not applied to biases and norms."""
    clip_grad: float = 1.0
    """Largest global gradient norm; 0 = no clipping."""
    skip_iters: tuple[int, ...] = ()
    """Iterations (counted from 1) whose batch is read and reported but not applied."""
    skip_spike_sigma: float | None = None
    """Leave out updates with a loss or gradient norm so many standard deviations above the recent mean; 6 is usual."""
    skip_spike_window: int = 128
    """Applied iterations that count as recent."""
    max_not_finite: int = 100
    """Iterations in a row with a loss or gradient that is not finite after which the run gives up; 0 = never."""
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
    """Learning rate as a function of the iterations applied before an iteration."""

    lr: float = 1e-5
    """Highest learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["cosine", "linear", "constant", "inverse-square-root"] = "cosine"
    """Shape of the decay after warm-up."""
    lr_decay_iters: int | None = None
    """Iterations until min_lr; default train_iters."""
    lr_warmup_iters: int = 0
    """Iterations of warm-up from 0."""
    lr_warmup_style: Literal["linear", "log"] = "linear"
    """Shape of the warm-up; log is DeepSpeed's WarmupLR."""


@dataclass(frozen=True)
class Checkpoint:
    """Where weights and state come from and go to."""

    load: str | None = None
    """Checkpoint folder to start or resume from; in `save` a newer checkpoint of the same run goes first."""
    load_iters: int | None = None
    """Iteration to load; default what the tracker names."""
    use_checkpoint_args: bool = False
    """Take the architecture from the checkpoint."""
    finetune: bool = False
    """Weights only: iteration, optimizer, data position and random state start anew."""
    no_load_optim: bool = False
    """Do not load optimizer state."""
    no_load_rng: bool = False
    """Do not load random state."""
    save: str | None = None
    """Checkpoint folder to write to; `metrics.jsonl` goes there too."""
    save_interval: int | None = None
    """Iterations between checkpoints; default: at the end only."""
    save_total_limit: int | None = None
    """Newest checkpoints kept, and the best by validation loss besides; default all."""
    async_save: bool = False
    """Write checkpoints while training goes on, from a copy in CPU memory as large as the rank's part of the files."""


@dataclass(frozen=True)
class Evaluation:
    """Validation during training."""

    eval_interval: int | None = None
    """Iterations between evaluations; default: at the end only."""
    eval_iters: int | None = None
    """Global batches of each evaluation; 0 = no evaluation; default one clean pass."""


@dataclass(frozen=True)
class Logging:
    """What is reported, where."""

    log_interval: int = 10
    """Iterations between console lines."""
    tensorboard_dir: str | None = None
    """Folder for TensorBoard event files."""
    wandb_logger: bool = False
    """Log to Weights & Biases (WANDB_API_KEY from the environment, or `wandb login`)."""
    wandb_project: str = "oasst-megatron"
    """Project name there."""
    exit_interval: int | None = None
    """Save and leave after every this many iterations."""
    exit_duration_in_mins: float | None = None
    """Save and leave this many minutes after the process was started."""
    exit_code_on_signal: int = 0
    """Exit code after SIGTERM or SIGUSR1 (a checkpoint was saved)."""
    timing_log_level: int = 0
    """1: seconds of each phase of an iteration, on the console and in metrics.jsonl."""
    profile_iters: tuple[int, ...] = ()
    """First and last iteration of a torch profiler trace, written to save/profile."""
    peak_tflops: float | None = None
    """Peak TFLOP/s of one device, for MFU; default from a table of known devices."""


@dataclass(frozen=True)
class TrainConfig:
    """The whole run."""

    parallel: Parallel = field(default_factory=Parallel)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    batch: Batch = field(default_factory=Batch)
    optimizer: Optimizer = field(default_factory=Optimizer)
    lr_schedule: LrSchedule = field(default_factory=LrSchedule)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    evaluation: Evaluation = field(default_factory=Evaluation)
    logging: Logging = field(default_factory=Logging)
