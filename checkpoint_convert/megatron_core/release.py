"""Import weights of any format into CKPT_DIR/release: check, stream one tensor at a time, verify the source, publish.

    report = import_weights(WeightsToImport(source, table, model, rows, tokenizer, origin), CKPT_DIR, ImportOptions())

Each format provides its weights as named tensors and a table of rules. Every tensor of the source is used once, and
every tensor of the checkpoint is written once. Otherwise the import stops and names the tensors.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoint_convert.huggingface.chat_template import chat_format_of, save_with_template
from checkpoint_convert.huggingface.generation import write_generation_config
from checkpoint_convert.huggingface.lineage import record_source
from checkpoint_convert.huggingface.source_files import keep_source
from checkpoint_convert.huggingface.tokenizer import added_tokens
from checkpoint_convert.huggingface.weights import check_weight_sums
from checkpoint_convert.mapping.checks import check_names, check_shapes, tied_copy_to_drop
from checkpoint_convert.mapping.options import ImportOptions
from checkpoint_convert.mapping.rules import Table
from checkpoint_convert.mapping.vocabulary import RowPlan, grow
from checkpoint_convert.megatron_core.checkpoint import CheckpointWriter
from checkpoint_convert.output.report import Report, progress, warn_of_not_finite, warn_of_rounding
from checkpoint_convert.output.staging import release_staging
from checkpoint_convert.tensors.tensor import TensorInfo, TensorSource, joined, main_dtype, one_torch_thread
from megatron_train.checkpoint.folder import MODEL_CONFIG, TOKENIZER_DIR, folder_name, publish_checkpoint
from megatron_train.config.megatron_args import common_state
from megatron_train.config.model_config import ModelConfig
from pretokenizer.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class WeightsToImport:
    """A model of another format, ready to import: its tensors and the rules that convert them.

    Its architecture, plan of vocabulary rows, tokenizer and generation settings are imported too.
    """

    source: TensorSource
    table: Table
    model: ModelConfig
    rows: RowPlan
    tokenizer: Tokenizer | None
    origin: Path
    """The folder that holds the files of the other format."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Contents of generation_config.json. The checkpoint keeps them for a later export."""

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Shape and dtype of every source tensor that the rules use, by name."""
        return {name: self.source.infos[name] for rule in self.table.rules for name in rule.others}


def import_weights(weights: WeightsToImport, checkpoint_dir: Path, options: ImportOptions) -> Report:
    """Convert the weights, publish them as the checkpoint `checkpoint_dir`/release, and return the report to print.

    Nothing is published when a source file differs from the source's SHA256SUMS. Raises ConvertError naming the file or
    tensor.
    """
    dropped = check_weights(weights)
    dtype = options.dtype or main_dtype(weights.infos.values())
    if options.dtype is None:
        warn_of_rounding(weights.infos, dtype)
    vocabulary = weights.rows.describe()
    report = Report(checkpoint_dir / folder_name(None), dtype=dtype, vocabulary=vocabulary, dropped=dropped)
    with release_staging(checkpoint_dir) as staging, one_torch_thread():
        checked = in_background(check_weight_sums, weights.origin)
        model = release_model(weights, options)
        digests = stream_weights(weights, model, report, staging)
        write_companions(weights, model, options.extra_special_tokens, staging)
        checked.result()  # raises when a file differs from the source's SHA256SUMS: nothing is published then
        publish_checkpoint(checkpoint_dir, None, digests)
    warn_of_not_finite(report)
    return report


def check_weights(weights: WeightsToImport) -> list[str]:
    """Check that the source's tensors fit the model. Return the names of the tensors that are not imported.

    These are a tied model's copy of the output layer, and buffers such as rotary tables. Raises ConvertError when names
    or shapes do not fit.
    """
    source, table, model, origin = weights.source, weights.table, weights.model, weights.origin
    copies = tied_copy_to_drop(source, model, table, origin)
    buffers = check_names(table, source.infos, origin, copies)
    check_shapes(table, source.infos, model, origin)
    return copies + buffers


def stream_weights(weights: WeightsToImport, model: ModelConfig, report: Report, folder: Path) -> dict[Path, str]:
    """Convert the source's tensors one at a time, and write them as a checkpoint into `folder`.

    `model` is the architecture to save, and `report` counts the tensors. Return {path: SHA-256} of the written files.
    """
    source = weights.source
    writer = CheckpointWriter(folder, weights.model.shared_norm)
    try:
        with progress(source.infos, f"reading {weights.origin.name}") as bar:
            for rule in weights.table.rules:
                parts = rule.to_megatron([source.read(name) for name in rule.others], weights.model)
                parts = grow(joined(parts), weights.rows, rule.other) if rule.is_vocabulary else parts
                report.write(writer, rule.megatron, parts, report.dtype)
                bar.update(sum(source.infos[name].num_bytes for name in rule.others))
        writer.close(common_state(model, iteration=0))
    finally:
        writer.abandon()
    return writer.digests


def release_model(weights: WeightsToImport, options: ImportOptions) -> ModelConfig:
    """Return the architecture of CKPT_DIR/release: the source's, with the planned vocabulary rows."""
    return dataclasses.replace(
        weights.model,
        vocab_size=weights.rows.used_rows,
        padded_vocab_size=weights.rows.padded_rows,
        make_vocab_size_divisible_by=options.make_vocab_size_divisible_by,
    )


def write_companions(weights: WeightsToImport, model: ModelConfig, extra_tokens: Sequence[str], folder: Path) -> None:
    """Write the files of a checkpoint other than its weights into `folder`.

    They hold the architecture, the name of the source, the generation settings, and the tokenizer with `extra_tokens`
    and its chat template.
    """
    model.save(folder / MODEL_CONFIG)
    record_source(folder, weights.origin)
    write_generation_config(None, weights.generation, folder)
    if weights.tokenizer is not None:
        chat_format = chat_format_of(weights.tokenizer, weights.origin)
        save_with_template(weights.tokenizer, chat_format, folder / TOKENIZER_DIR)
        added = added_tokens(weights.tokenizer, weights.origin, extra_tokens)
        keep_source(weights.origin, added, folder / TOKENIZER_DIR)


def in_background(check: Callable[[Path], None], folder: Path) -> Future[None]:
    """Run `check(folder)` in a background thread. The returned future raises the error of the check, if any.

    The thread is a daemon, so that it does not delay the exit of an interrupted program.
    """
    future: Future[None] = Future()

    def run() -> None:
        try:
            check(folder)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
