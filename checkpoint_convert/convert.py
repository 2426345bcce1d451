"""The conversions, each from top to bottom: read the config, plan, stream one tensor at a time, account, publish.

    report = from_hf(Path("HF_DIR"), Path("CKPT_DIR"), ImportOptions(("<|im_start|>", "<|im_end|>")))
    report = to_hf(Path("CKPT_DIR"), Path("HF_DIR"), ExportOptions())

Every tensor of the source is used once and every tensor of the target written once, or the conversion stops and names
them.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import HfConfig, model_config_of, read_hf_config
from checkpoint_convert.huggingface.lineage import record_source
from checkpoint_convert.huggingface.model_card import write_model_card
from checkpoint_convert.huggingface.tokenizer import (
    SpecialIds,
    chat_format_of,
    generation_settings,
    recorded_chat_format,
    save_with_template,
    source_tokenizer,
    special_ids,
    write_generation_config,
    write_tokenizer_files,
)
from checkpoint_convert.huggingface.weights import HfWeights, SafetensorsWriter, check_weight_sums
from checkpoint_convert.mapping.checks import (
    ExportOptions,
    ImportOptions,
    check_checkpoint,
    check_names,
    check_shapes,
    plan_rows,
    rows_to_write,
    table_of_file,
    target_infos,
    tied_copy_to_drop,
)
from checkpoint_convert.mapping.rules import Table
from checkpoint_convert.mapping.vocabulary import RowPlan, grow, shrink
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader, CheckpointWriter
from checkpoint_convert.report import Report, named, progress, warn, warn_of_not_finite, warn_of_rounding
from checkpoint_convert.staging import check_target, folder_staging, release_staging
from checkpoint_convert.tensors.tensor import TensorSource, dtype_name, joined, main_dtype, one_torch_thread
from megatron_train.checkpoint.folder import (
    MODEL_CONFIG,
    TOKENIZER_DIR,
    check_folder,
    find_checkpoint,
    folder_name,
    publish_checkpoint,
)
from megatron_train.config.model_config import ModelConfig
from pretokenizer.chat.formats import ChatFormat
from pretokenizer.files.checksums import write_sha256sums
from pretokenizer.files.publish import publish_folder
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer_folder


def from_hf(hf_dir: Path, checkpoint_dir: Path, options: ImportOptions) -> Report:
    """A Hugging Face folder -> CKPT_DIR/release. Raises ConvertError, TokenizerError or CheckpointError."""
    config = read_hf_config(hf_dir / "config.json")
    model = model_config_of(config, FAMILIES, hf_dir / "config.json")
    source = HfWeights(hf_dir)
    tokenizer = source_tokenizer(hf_dir, options.extra_special_tokens, options.new_tokens)
    if tokenizer is None:
        warn(f"{hf_dir} has no tokenizer file, so the checkpoint gets none")
    else:
        warn_of_other_ids(config, tokenizer, hf_dir)
        warn_of_rows_in_use(options.extra_special_tokens, tokenizer, model, hf_dir)
    plan = plan_rows(model, tokenizer, options)
    settings = generation_settings(hf_dir, config)
    table = table_of_file(FAMILIES[model.family].table(model), source.infos, model)
    return import_weights(source, table, model, plan, tokenizer, hf_dir, checkpoint_dir, options, settings)


def import_weights(
    source: TensorSource,
    table: Table,
    model: ModelConfig,
    plan: RowPlan,
    tokenizer: Tokenizer | None,
    origin: Path,
    checkpoint_dir: Path,
    options: ImportOptions,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Weights under the names of `table` -> CKPT_DIR/release, with rows as planned and the tokenizer beside them.

    `settings`: of generation, kept for an export of the very same weights.
    """
    dropped = tied_copy_to_drop(source, model, table, origin)
    dropped += check_names(table, source.infos, origin, dropped)
    check_shapes(table, source.infos, model, origin)
    model = dataclasses.replace(
        model,
        vocab_size=plan.used_rows,
        padded_vocab_size=plan.padded_rows,
        make_vocab_size_divisible_by=options.make_vocab_size_divisible_by,
    )
    dtype = options.dtype or main_dtype(source.infos[name] for rule in table.rules for name in rule.others)
    if options.dtype is None:
        warn_of_rounding({name: source.infos[name] for rule in table.rules for name in rule.others}, dtype)
    report = Report(checkpoint_dir / folder_name(None), dtype=dtype, vocabulary=plan.describe(), dropped=dropped)
    with release_staging(checkpoint_dir) as staging, one_torch_thread():
        checked = beside(check_weight_sums, origin)
        writer = CheckpointWriter(staging)
        try:
            with progress(source.infos, f"reading {origin.name}") as bar:
                for rule in table.rules:
                    parts = rule.to_megatron([source.read(name) for name in rule.others], model)
                    parts = grow(joined(parts), plan, rule.other) if rule.is_vocabulary else parts
                    report.write(writer, rule.megatron, parts, dtype)
                    bar.update(sum(source.infos[name].num_bytes for name in rule.others))
            writer.close({"iteration": 0})
        finally:
            writer.abandon()
        model.save(staging / MODEL_CONFIG)
        record_source(staging, origin)
        write_generation_config(None, settings or {}, staging)
        if tokenizer is not None:
            save_with_template(tokenizer, chat_format_of(tokenizer, origin), staging / TOKENIZER_DIR)
        checked.result()  # raises when a file is not what its folder says: nothing is published then
        publish_checkpoint(checkpoint_dir, None, writer.digests)
    warn_of_not_finite(report)
    return report


def to_hf(checkpoint_dir: Path, hf_dir: Path, options: ExportOptions) -> Report:
    """A checkpoint of any layout -> a Hugging Face folder. Raises ConvertError, TokenizerError or CheckpointError."""
    folder = find_checkpoint(checkpoint_dir, options.iteration)
    check_target(hf_dir)
    model = ModelConfig.load(folder / MODEL_CONFIG)
    config, table = FAMILIES[model.family].hf_config(model), FAMILIES[model.family].table(model)
    reader = CheckpointReader(folder)
    check_checkpoint(table, reader, model)
    tokenizer, chat_format = checkpoint_tokenizer(folder)
    ids = special_ids(tokenizer, chat_format) if tokenizer else None
    rows = rows_to_write(model, tokenizer, options.vocab_size)
    dtype = options.dtype or main_dtype(reader.infos.values())
    if options.dtype is None:
        warn_of_rounding(reader.infos, dtype)
    targets = target_infos(table, reader.infos, model, rows, dtype)
    report = Report(hf_dir, dtype=dtype, vocabulary=describe_rows(rows, model))
    with folder_staging(hf_dir) as staging, one_torch_thread():
        checked = beside(check_folder, folder) if options.check_sums else None
        writer = SafetensorsWriter(staging, targets, options.max_shard_bytes)
        try:
            with progress(reader.infos, f"writing {hf_dir.name}") as bar:
                for rule in table.rules:
                    tensor = reader.read(rule.megatron)
                    tensor = shrink(tensor, rows) if rule.is_vocabulary else tensor
                    for name, parts in zip(rule.others, rule.to_other(tensor, model), strict=True):
                        report.write(writer, name, parts, dtype)
                    bar.update(reader.infos[rule.megatron].num_bytes)
            writer.close()
        finally:
            writer.abandon()
        settings = generation_settings(folder, {})
        write_hf_config(config, rows, ids, settings, dtype, staging)
        write_generation_config(ids, settings, staging)
        if tokenizer is not None:
            write_tokenizer_files(tokenizer, chat_format, staging, model.max_position_embeddings)
        write_model_card(staging / "README.md", options.hub_name or hf_dir.name, model, folder, tokenizer, chat_format)
        write_sha256sums(staging, writer.digests)
        if checked:
            checked.result()  # raises when the checkpoint is damaged: nothing is published then
        publish_folder(staging, hf_dir)
    warn_of_not_finite(report)
    return report


def beside(function: Callable[[Path], None], folder: Path) -> Future[None]:
    """Runs a check beside what follows, in a thread that does not hold up an interrupted program."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            function(folder)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def describe_rows(rows: int, model: ModelConfig) -> str:
    """`32,007 rows written of 32,128 (32,007 in use)`."""
    return f"{rows:,} rows written of {model.padded_vocab:,} ({model.vocab_size:,} in use)"


def checkpoint_tokenizer(folder: Path) -> tuple[Tokenizer | None, ChatFormat | None]:
    """The tokenizer that travelled with the checkpoint, and the chat format it was recorded with."""
    if not (folder / TOKENIZER_DIR).is_dir():
        warn(f"{folder} has no {TOKENIZER_DIR}/ folder: only weights and config are written, no tokenizer files")
        return None, None
    tokenizer = load_tokenizer_folder(folder / TOKENIZER_DIR)
    return tokenizer, recorded_chat_format(folder / TOKENIZER_DIR, tokenizer)


def write_hf_config(
    config: HfConfig,
    rows: int,
    ids: SpecialIds | None,
    settings: Mapping[str, Any],
    dtype: torch.dtype,
    folder: Path,
) -> None:
    """config.json; `dtype` is what transformers 5 reads, `torch_dtype` what older readers do.

    Token ids: the tokenizer's, else those of the source's generation `settings`; without either, transformers' own.
    """
    tokens = {name: settings[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in settings}
    if ids is not None:
        tokens = {"bos_token_id": ids.bos, "eos_token_id": ids.end_of_turn, "pad_token_id": ids.pad}
    text = {
        **config,
        "vocab_size": rows,
        **tokens,
        "use_cache": True,
        "dtype": dtype_name(dtype),
        "torch_dtype": dtype_name(dtype),
    }
    (folder / "config.json").write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def warn_of_rows_in_use(extra: Sequence[str], tokenizer: Tokenizer, model: ModelConfig, folder: Path) -> None:
    """Tokens asked for that get rows of the source: padding, or what a tokenizer file that is missing here gave out."""
    ids = {token: tokenizer.token_to_id(token) for token in extra}
    taken = {token: i for token, i in ids.items() if i is not None and i < model.vocab_size}
    own = source_tokenizer(folder, (), new_tokens=False) if taken else None
    taken = {token: i for token, i in taken.items() if own is None or own.token_to_id(token) != i}
    if taken:
        rows = named([f"{token} {i}" for token, i in taken.items()])
        warn(f"{folder}: has {model.vocab_size:,} rows already, so these tokens keep what theirs hold: {rows}")


def warn_of_other_ids(config: HfConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Special ids of config.json that the tokenizer does not share."""
    for key, own in (("bos_token_id", tokenizer.bos_token_id), ("eos_token_id", tokenizer.eos_token_id)):
        given = config.get(key)
        if given is not None and own is not None and own not in (given if isinstance(given, list) else [given]):
            warn(f"{folder}/config.json: {key} is {given}, the tokenizer says {own}; the tokenizer's is used")
