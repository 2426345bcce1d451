"""Convert Hugging Face folders to checkpoints and back: read the config, plan, stream the tensors, publish.

    report = from_hf(Path("HF_DIR"), Path("CKPT_DIR"), ImportOptions(("<|im_start|>", "<|im_end|>")))
    report = to_hf(Path("CKPT_DIR"), Path("HF_DIR"), ExportOptions())

Every tensor of the source is used once and every tensor of the target is written once. Otherwise the conversion stops
and names the tensors.
"""

from __future__ import annotations

from pathlib import Path

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import check_fields, model_config_of, read_hf_config
from checkpoint_convert.huggingface.export import Export, plan_export, write_companions
from checkpoint_convert.huggingface.generation import generation_settings
from checkpoint_convert.huggingface.model_card import CardFacts
from checkpoint_convert.huggingface.tokenizer import (
    source_tokenizer,
    warn_of_other_ids,
    warn_of_other_spaces,
    warn_of_rows_in_use,
)
from checkpoint_convert.huggingface.weights import HfWeights, SafetensorsWriter
from checkpoint_convert.mapping.checks import check_checkpoint, plan_rows, table_of_file, target_infos
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.mapping.vocabulary import shrink
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
from checkpoint_convert.megatron_core.release import WeightsToImport, import_weights, in_background
from checkpoint_convert.output.report import Report, progress, warn, warn_of_not_finite, warn_of_rounding
from checkpoint_convert.output.staging import check_target
from checkpoint_convert.tensors.tensor import main_dtype, one_torch_thread
from checkpoint_convert.verify.receipt import write_receipt
from megatron_train.checkpoint.folder import check_folder, find_checkpoint
from pretokenizer.files.checksums import write_sha256sums
from pretokenizer.files.publish import staged_folder


def from_hf(hf_dir: Path, checkpoint_dir: Path, options: ImportOptions) -> Report:
    """Convert a Hugging Face folder to the checkpoint `checkpoint_dir`/release, and return the report to print.

    Weights, architecture, tokenizer and generation settings are converted. Raises ConvertError, TokenizerError or
    CheckpointError.
    """
    config = read_hf_config(hf_dir / "config.json")
    check_fields(config, FAMILIES, hf_dir / "config.json", options.ignored_fields)
    model = model_config_of(config, FAMILIES, hf_dir / "config.json")
    source = HfWeights(hf_dir)
    table = table_of_file(FAMILIES[model.family].table(model), source.infos, model)
    tokenizer = source_tokenizer(hf_dir, options.extra_special_tokens, options.new_tokens)
    if tokenizer is None:
        warn(f"{hf_dir} has no tokenizer file, so the checkpoint gets no tokenizer")
    else:
        warn_of_other_ids(config, tokenizer, hf_dir)
        warn_of_other_spaces(hf_dir)
        warn_of_rows_in_use(options.extra_special_tokens, tokenizer, model, hf_dir)
    rows = plan_rows(model, tokenizer, options)
    generation = generation_settings(hf_dir, config)
    weights = WeightsToImport(source, table, model, rows, tokenizer, hf_dir, generation)
    return import_weights(weights, checkpoint_dir, options)


def to_hf(checkpoint_dir: Path, hf_dir: Path, options: ExportOptions) -> Report:
    """Convert a checkpoint in `checkpoint_dir` to the Hugging Face folder `hf_dir`, and return the report to print.

    The new folder also gets the tokenizer, a model card, SHA256SUMS and receipt.json. It appears only when it is
    complete. With `check_sums`, the checkpoint must also equal its SHA256SUMS. Raises ConvertError, TokenizerError or
    CheckpointError.
    """
    folder = find_checkpoint(checkpoint_dir, options.iteration)
    check_target(hf_dir)
    export = plan_export(folder, options.vocab_size)
    reader = CheckpointReader(folder)
    check_checkpoint(export.table, reader.infos, export.model, folder)
    dtype = options.dtype or main_dtype(reader.infos.values())
    if options.dtype is None:
        warn_of_rounding(reader.infos, dtype)
    report = Report(hf_dir, dtype=dtype, vocabulary=export.describe_rows())
    with staged_folder(hf_dir) as staging, one_torch_thread():
        checked = in_background(check_folder, folder) if options.check_sums else None
        digests = stream_weights(export, reader, report, staging, options.max_shard_bytes)
        name = options.hub_name or hf_dir.name
        write_companions(export, dtype, CardFacts(name, options.license, options.language, options.datasets), staging)
        write_sha256sums(staging, digests)
        write_receipt(staging, folder, options.is_temporary)
        if checked:
            checked.result()  # raises when the checkpoint is damaged: nothing is published then
    warn_of_not_finite(report)
    return report


def stream_weights(
    export: Export, reader: CheckpointReader, report: Report, folder: Path, max_shard_bytes: int
) -> dict[Path, str]:
    """Convert the checkpoint's tensors one at a time, and write them to safetensors files in `folder`.

    `report` counts the tensors. Return {path: SHA-256} of the written files.
    """
    targets = target_infos(export.table, reader.infos, export.model, export.rows, report.dtype)
    writer = SafetensorsWriter(folder, targets, max_shard_bytes)
    try:
        with progress(reader.infos, f"writing {report.folder.name}") as bar:
            for rule in export.table.rules:
                tensor = reader.read(rule.megatron)
                tensor = shrink(tensor, export.rows) if rule.is_vocabulary else tensor
                for name, parts in zip(rule.others, rule.to_other(tensor, export.model), strict=True):
                    report.write(writer, name, parts, report.dtype)
                bar.update(reader.infos[rule.megatron].num_bytes)
        writer.close()
    finally:
        writer.abandon()
    return writer.digests
