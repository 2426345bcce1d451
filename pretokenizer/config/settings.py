"""The pretokenizer's configuration: what decides the bytes (PretokenizeConfig) and what does not (RunOptions).

Every field of PretokenizeConfig is a key of a section and a flag of the same name. Nothing is changed after loading.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pretokenizer.config.yaml_config import ConfigError, from_mapping, suggest

_TRAINER_KEYS = """
    adam_beta1 adam_beta2 adam_epsilon bf16 deepspeed deepspeed_config dtype eval_accumulation_steps eval_steps
    fp16 freeze_layer fuse_gelu gradient_accumulation_steps gradient_checkpointing hf_hub_token is_reward_model
    learning_rate log_dir log_wandb logging_steps loss_fn lr_scheduler_type max_length model_name
    num_train_epochs optimizer peft_model peft_type per_device_eval_batch_size per_device_train_batch_size
    per_digit_tokens poly_eps pooling quantization random_offset_probability residual_dropout
    residual_dropout_lima samples_mixing save_steps save_strategy save_total_limit seq2seqmodel sort_by_length
    superhot superhot_config system_add_length system_property_dropout use_custom_sampler use_flash_attention
    use_system_tag verbose wandb_entity warmup_steps warmup_type weight_decay weight_decay_lm
"""
HF_TRAINER_KEYS = frozenset(_TRAINER_KEYS.split())
"""Keys of the cards' sections that belong to the Hugging Face trainer; they are ignored here, and named in one line."""


@dataclass(frozen=True)
class DatasetEntry:
    """One entry of `datasets`."""

    name: str
    """Name in SOURCES, lower case."""
    val_split: float = 0.2
    """Share of the records that goes to val; a whole number from 1 on is a count; 0 = no val part."""
    max_val_set: int | None = None
    """At most so many val samples; the rest is discarded, as the original does. 0 = no limit."""
    max_train_set: int | None = None
    """At most so many train samples, drawn like `fraction`. 0 = no limit."""
    fraction: float | None = None
    """Share of the train samples to draw; more than 1 counts as 1. Before `size`."""
    size: int | None = None
    """Number of train samples to draw."""
    data_path: str | None = None
    """Folder to look in instead of data_dir."""
    revision: str | None = None
    """Commit or branch of the data set on the hub; default: the source's own."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the data set's own source understands, e.g. `lang`, `top_k`, `input_file_path`."""

    def __post_init__(self) -> None:
        problems = []
        if self.val_split < 0 or (self.val_split >= 1 and self.val_split != int(self.val_split)):
            problems.append(f"val_split {self.val_split}: give a share below 1, or a whole number of records")
        if self.fraction is not None and self.fraction <= 0:
            problems.append(f"fraction {self.fraction}: must be above 0; leave the data set out if you do not want it")
        for name in ("max_val_set", "max_train_set", "size"):
            if (getattr(self, name) or 0) < 0:
                problems.append(f"{name} {getattr(self, name)}: must not be negative")
        if problems:
            raise ConfigError("\n".join(problems))  # from_mapping puts the data set's name in front


@dataclass(frozen=True)
class PretokenizeConfig:
    """Everything that decides what is written."""

    datasets: list[Any]
    """Data set names, or one-key mappings `name: {options}`."""
    output_dir: str
    """The folder is output_dir + output_dir_suffix."""
    filename_prefix: str
    """File stem; -train and -val are appended."""
    vocab_file: str | None = None
    """Path to a tokenizer.model or tokenizer.json."""
    datasets_extra: list[Any] = field(default_factory=list)
    """More entries, after `datasets`."""
    data_dir: str = "data"
    """Folder with one folder per data set."""
    cache_dir: str | None = None
    """Cache of downloads from the hub (default: the hub library's own)."""
    rng_seed: int = 42
    """Seed of sampling and of the random choices that some sources make."""
    eval_size: int | None = None
    """Cut each data set's val part to its first so many samples."""
    min_assistant_tokens: int | None = None
    """Leave out documents with fewer tokens in assistant turns (template tokens count)."""
    max_count: int | None = None
    """Stop after so many accepted documents a split (for trying things out)."""
    output_dir_suffix: str = ""
    tokenizer_type: str | None = None
    """SentencePieceTokenizer or FalconTokenizer, as the original spells it; the file itself decides."""
    vocab_extra_ids_list: str | None = None
    """Comma list of special tokens to add, in this order; default: those of the chat format."""
    new_tokens: bool = True
    """Append <CLS> <SEP> <EOD> <MASK> <PAD> to a SentencePiece vocabulary, as Megatron's wrapper does."""
    chat_format: str = "chatml"
    """A name in CHAT_FORMATS, or the path of a file with a Jinja chat template."""
    special_tokens_in_text: Literal["text", "encode"] = "text"
    """A control token spelled inside a message: stays text, or becomes the control token (the original's bytes)."""
    dedup: Literal["none", "exact"] = "none"
    """exact: of documents with the same tokens keep the first, train before val."""
    decontaminate: list[str] = field(default_factory=list)
    """Files of test questions; train documents that share a run of words with one are left out."""
    decontaminate_ngram: int = 13
    """Length of that run, in words."""
    write_json: bool = False
    """Also write the formatted text of each document as JSON lines."""
    compress: bool = False
    """Also pack the finished folder into <folder>.tar.gz."""
    max_line_mb: int = 64
    """A longer line (in MiB) is a bad record, so that memory stays bounded."""
    dataset_impl: Literal["mmap"] = "mmap"
    use_system_prefix: bool = False
    """Accepted for the original's sections; has no effect there either."""

    def __post_init__(self) -> None:
        problems = []
        if not self.datasets and not self.datasets_extra:
            problems.append("datasets: the list is empty; name at least one data set")
        for name in ("eval_size", "min_assistant_tokens", "max_count"):
            if (getattr(self, name) or 0) < 0:
                problems.append(f"{name}: {getattr(self, name)} must not be negative")
        if not self.filename_prefix or "/" in self.filename_prefix:
            problems.append(f"filename_prefix: {self.filename_prefix!r} must be a file name without folders")
        if not (self.output_dir + self.output_dir_suffix).strip("/"):
            problems.append("output_dir: is empty")
        for name in ("decontaminate_ngram", "max_line_mb"):
            if getattr(self, name) < 1:
                problems.append(f"{name}: must be at least 1")
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def output_folder(self) -> Path:
        """output_dir + output_dir_suffix."""
        return Path(self.output_dir + self.output_dir_suffix)

    @property
    def entries(self) -> list[DatasetEntry]:
        """`datasets` and `datasets_extra` as entries. Raises ConfigError."""
        return [parse_entry(item)[0] for item in (*self.datasets, *self.datasets_extra)]


@dataclass(frozen=True)
class RunOptions:
    """How to run; none of this changes a byte of the output."""

    workers: int = 1
    """Processes that read and encode."""
    overwrite: bool = False
    """Replace a finished output, or start an unfinished one over."""
    executor: Literal["local", "ray"] = "local"
    part: int | None = None
    """Build only part `part` of `num_parts` (from 0)."""
    num_parts: int | None = None
    strict: bool = False
    """Stop at a bad record instead of counting it."""
    max_bad_fraction: float = 0.05
    """Stop when a data set has a larger share of bad records than this."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: must be at least 1")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"--max_bad_fraction {self.max_bad_fraction}: must be from 0 to 1")
        if (self.part is None) != (self.num_parts is None):
            raise ConfigError("--part and --num_parts belong together")
        if self.part is not None and self.num_parts is not None and not 0 <= self.part < self.num_parts:
            raise ConfigError(
                f"--part {self.part}: must be from 0 to {self.num_parts - 1} with --num_parts {self.num_parts}"
            )


def make_config(merged: dict[str, Any], source: str) -> tuple[PretokenizeConfig, list[str]]:
    """The configuration of merged sections and flags, and warnings. Raises ConfigError with all problems."""
    warnings = []
    ignored = sorted(set(merged) & HF_TRAINER_KEYS)
    if ignored:
        warnings.append(f"ignored, because they belong to the trainer: {', '.join(ignored)}")
    values = {key: value for key, value in merged.items() if key not in HF_TRAINER_KEYS}
    if "datasets" not in values:
        raise ConfigError(f"{source}: no section with `datasets` is among them; name a data mix, e.g. oasst_top1")
    for key in ("datasets_extra", "decontaminate", "vocab_extra_ids_list", "output_dir_suffix"):
        if values.get(key, "") is None:
            del values[key]
    config = from_mapping(PretokenizeConfig, values, source)
    for item in (*config.datasets, *config.datasets_extra):
        warnings += parse_entry(item)[1]
    return config, warnings


def parse_entry(item: Any) -> tuple[DatasetEntry, list[str]]:
    """A data set entry as the cards write it, and warnings. Raises ConfigError."""
    if isinstance(item, str):
        return DatasetEntry(item.lower()), []
    if not isinstance(item, dict) or not item:
        raise ConfigError(f"datasets: expected a name or `name: {{options}}`, found {item!r}")
    warnings = []
    name, options = next(iter(item.items()))
    name = str(name).lower()
    if len(item) > 1:
        if options is not None:
            raise ConfigError(
                f"datasets: one entry names several data sets: {', '.join(map(str, item))}; give each its own `-`"
            )
        options = {key: value for key, value in item.items() if key != next(iter(item))}
        warnings.append(f"datasets: {name}: its options are not indented below it; taken as meant")
    generic = {f.name for f in fields(DatasetEntry)} - {"name", "options"}
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise ConfigError(f"datasets: {name}: expected options, found {options!r}")
    known = {key: value for key, value in options.items() if key in generic and value is not None}
    own = {key: value for key, value in options.items() if key not in generic}
    return from_mapping(DatasetEntry, {"name": name, "options": own, **known}, f"datasets: {name}"), warnings


def check_known_options(options: dict[str, Any], known: list[str], name: str) -> None:
    """Raise ConfigError for an option that the data set's source does not have."""
    for key in options:
        if key not in known:
            have = f"; it has {', '.join(sorted(known))}" if known else ""
            raise ConfigError(f"datasets: {name}: unknown option {key!r}{suggest(key, known)}{have}")
