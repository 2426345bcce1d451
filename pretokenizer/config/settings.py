"""The configuration of a build: PretokenizeConfig decides the bytes of the output, RunOptions decides how to run.

Every field of PretokenizeConfig is a key of a section and a flag of the same name.
"""

from dataclasses import dataclass, field, fields
from datetime import date
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
"""Keys of Open-Assistant's sections that concern its Hugging Face trainer. A build ignores them with one warning."""


@dataclass(frozen=True)
class DatasetEntry:
    """One data set of a section's `datasets` list, with its options."""

    name: str
    """Name of the data set, in lower case: a key of SOURCES, which says how its records are converted."""
    val_split: float = 0.2
    """Share of the records that become validation data (below 1), or their number (1 or more). 0 means none."""
    max_val_set: int | None = None
    """Largest number of validation samples; the others are discarded, as in Open-Assistant. 0 means no limit."""
    max_train_set: int | None = None
    """Largest number of training samples. From more, a random subset is drawn. 0 means no limit."""
    fraction: float | None = None
    """Share of the training samples: 0.5 draws half of them, 2.5 writes all twice and draws half. Replaces `size`."""
    size: int | None = None
    """Number of training samples to draw at random."""
    data_path: str | None = None
    """Folder with the data set's files. The default is data_dir/<name>."""
    revision: str | None = None
    """Commit or branch to download of a data set on the hub. Each source has its own default."""
    split: str | None = None
    """Split to read, such as `train_sft`. It is needed only where a folder holds several training splits."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options that only this kind of data set has, such as `lang`, `top_k` or `input_file_path`."""

    def __post_init__(self) -> None:
        problems = []
        if self.val_split < 0 or (self.val_split >= 1 and self.val_split != int(self.val_split)):
            problems.append(f"val_split {self.val_split}: give a share below 1, or a whole number of records")
        if self.fraction is not None and self.fraction <= 0:
            problems.append(f"fraction {self.fraction}: must be above 0; remove the data set to leave it out")
        for name in ("max_val_set", "max_train_set", "size"):
            if (getattr(self, name) or 0) < 0:
                problems.append(f"{name} {getattr(self, name)}: must not be negative")
        if problems:
            raise ConfigError("\n".join(problems))  # from_mapping puts the data set's name in front


_COMMON_KEYS = {field.name for field in fields(DatasetEntry)} - {"name", "options"}
"""Options in a `datasets` list that every data set has."""


@dataclass(frozen=True)
class PretokenizeConfig:
    """The settings that decide the bytes of the output."""

    datasets: list[Any]
    """The data sets to build, each a name or a one-key mapping `name: {options}`."""
    output_dir: str
    """Folder to write; output_dir_suffix is appended to it."""
    filename_prefix: str
    """Start of the shards' file names; -train or -val follows it."""
    vocab_file: str | None = None
    """Path of the tokenizer: a tokenizer.model or tokenizer.json."""
    datasets_extra: list[Any] = field(default_factory=list)
    """More data sets, in the same form as `datasets` and written after them."""
    data_dir: str = "data"
    """Folder with the input data: one folder for each data set, named like it."""
    cache_dir: str | None = None
    """Folder for downloads from the hub. The default is the hub library's own cache."""
    rng_seed: int = 42
    """Seed for drawing samples, and for the random choices that some data sets make."""
    eval_size: int | None = None
    """Number of validation samples to keep of each data set; the first ones are kept. 0 means no limit."""
    min_assistant_tokens: int | None = None
    """Smallest number of tokens in a document's assistant turns, template tokens included; others are left out."""
    max_count: int | None = None
    """Largest number of documents in each of train and val, to try a configuration quickly. 0 means no limit."""
    output_dir_suffix: str = ""
    """Text appended to output_dir; the tokenizer sections name the tokenizer here."""
    tokenizer_type: str | None = None
    """SentencePieceTokenizer or FalconTokenizer, as in Open-Assistant. It has no effect: vocab_file decides."""
    vocab_extra_ids_list: str | None = None
    """Special tokens to add, in this order, separated by commas. The default is the tokens of the chat format."""
    new_tokens: bool = True
    """Append <CLS> <SEP> <EOD> <MASK> <PAD> to a SentencePiece vocabulary, as Megatron's wrapper does."""
    chat_format: str = "chatml"
    """Name of a chat format (chatml, oasst, llama2), or path of a chat template.

    A path names a Jinja file or a tokenizer_config.json; FILE:NAME chooses one of several templates in the latter.
    """
    template_loss: Literal["turn", "reply", "marks"] | None = None
    """Tokens with loss. turn: the assistant's whole turn. reply: only the text after the generation prompt. marks: text
    inside the template's {% generation %} marks. Default: marks where the template has them, else turn."""
    history: Literal["full", "unroll"] = "full"
    """full: one document for each conversation. unroll: one for each reply, with the prompt a server would send."""
    template_date: str = "2025-01-01"
    """The date (YYYY-MM-DD) that a chat template gets as today's, so that the output does not depend on the day."""
    special_tokens_in_text: Literal["text", "encode"] = "text"
    """What <|im_end|> or another control token in a message becomes. text: plain text. encode: the control token."""
    consecutive_roles: Literal["allow", "merge", "refuse"] = "allow"
    """What happens to two messages of one role in a row: allow, merge (with a blank line between), or refuse."""
    dedup: Literal["none", "exact"] = "none"
    """exact: of documents with the same tokens, keep only the first; train comes before val. none: keep all."""
    near_duplicates: bool = False
    """Count near-duplicates in the reports, but write them. Needs `pip install 'oasst-megatron[neardup]'`."""
    decontaminate: list[str] = field(default_factory=list)
    """Files of test questions. Training documents that share consecutive words with a question are left out."""
    decontaminate_ngram: int = 13
    """Number of shared consecutive words for which `decontaminate` leaves out a document."""
    write_json: bool = False
    """Also write the text of every document, as JSON lines."""
    compress: bool = False
    """Also pack the finished folder into <folder>.tar.gz."""
    max_line_mb: int = 64
    """Largest size of an input line in MiB. A longer line counts as a bad record, which bounds the memory used."""
    dataset_impl: Literal["mmap"] = "mmap"
    """Format of the shards. Megatron's mmap format is the only one."""
    use_system_prefix: bool = False
    """No effect. It is accepted because Open-Assistant's sections have it, where it has no effect either."""

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
            problems.append("output_dir: is empty; name a folder")
        for name in ("decontaminate_ngram", "max_line_mb"):
            if getattr(self, name) < 1:
                problems.append(f"{name}: must be at least 1")
        if not _is_date(self.template_date):
            problems.append(f"template_date: {self.template_date!r} is not a date; give it as YYYY-MM-DD")
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def output_folder(self) -> Path:
        """Folder that the build writes: output_dir and output_dir_suffix joined."""
        return Path(self.output_dir + self.output_dir_suffix)

    @property
    def entries(self) -> list[DatasetEntry]:
        """All data sets with their options: `datasets`, then `datasets_extra`. Raises ConfigError for a bad item."""
        return [parse_entry(item)[0] for item in (*self.datasets, *self.datasets_extra)]


@dataclass(frozen=True)
class RunOptions:
    """How a build runs. None of these settings changes a byte of the output."""

    workers: int = 1
    """Number of processes that read and encode records."""
    overwrite: bool = False
    """Replace a finished output, or an unfinished build with another configuration or other inputs."""
    executor: Literal["local", "ray"] = "local"
    """Where to run. local: this machine. ray: a Ray cluster."""
    part: int | None = None
    """Number of the part to build, from 0 to num_parts - 1; the command `merge` joins the parts."""
    num_parts: int | None = None
    """Number of parts into which a build on several machines is divided."""
    strict: bool = False
    """Stop at the first bad record, instead of counting bad records and leaving them out."""
    max_bad_fraction: float = 0.05
    """Largest share of bad records in a data set; the build stops with an error when there are more."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: must be at least 1")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"--max_bad_fraction {self.max_bad_fraction}: must be from 0 to 1")
        if (self.part is None) != (self.num_parts is None):
            raise ConfigError("--part and --num_parts must be given together")
        if self.part is not None and self.num_parts is not None and not 0 <= self.part < self.num_parts:
            raise ConfigError(
                f"--part {self.part}: must be from 0 to {self.num_parts - 1} with --num_parts {self.num_parts}"
            )


def make_config(merged: dict[str, Any], source: str) -> tuple[PretokenizeConfig, list[str]]:
    """Return the configuration that the keys and values in `merged` describe, and a list of warnings.

    A warning lists the keys in HF_TRAINER_KEYS, which are ignored. `source` names the merged sections in error
    messages. Raises ConfigError listing all problems.
    """
    warnings = []
    ignored = sorted(set(merged) & HF_TRAINER_KEYS)
    if ignored:
        warnings.append(f"these keys belong to the trainer and are ignored: {', '.join(ignored)}")
    values = {key: value for key, value in merged.items() if key not in HF_TRAINER_KEYS}
    if "datasets" not in values:
        raise ConfigError(f"{source}: none of these sections has `datasets`; add a data mix such as oasst_top1")
    for key in ("datasets_extra", "decontaminate", "vocab_extra_ids_list", "output_dir_suffix"):
        if values.get(key, "") is None:
            del values[key]
    config = from_mapping(PretokenizeConfig, values, source)
    for item in (*config.datasets, *config.datasets_extra):
        warnings += parse_entry(item)[1]
    return config, warnings


def parse_entry(item: Any) -> tuple[DatasetEntry, list[str]]:
    """Return the data set that one item of a `datasets` list describes, and a list of warnings.

    The item is a name, or a mapping `name: {options}`. Raises ConfigError for any other item, and for a bad option.
    """
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
        warnings.append(f"datasets: {name}: its options are not indented below its name; they are used as if they were")
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise ConfigError(f"datasets: {name}: expected options, found {options!r}")
    if "weight" in options:
        weight = options["weight"]
        raise ConfigError(
            f"datasets: {name}: weight {weight}: there is no such option; write `fraction: {weight}`, which repeats or"
            " draws documents (2 writes all twice, 0.5 a random half)"
        )
    known = {key: value for key, value in options.items() if key in _COMMON_KEYS and value is not None}
    own = {key: value for key, value in options.items() if key not in _COMMON_KEYS}
    return from_mapping(DatasetEntry, {"name": name, "options": own, **known}, f"datasets: {name}"), warnings


def check_known_options(options: dict[str, Any], known: list[str], name: str) -> None:
    """Raise ConfigError for an option of the data set `name` that is not in `known`, the options its source has."""
    valid = sorted({*known, *_COMMON_KEYS})
    for key in options:
        if key not in known:
            raise ConfigError(
                f"datasets: {name}: unknown option {key!r}{suggest(key, valid)}; valid options: {', '.join(valid)}"
            )


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
