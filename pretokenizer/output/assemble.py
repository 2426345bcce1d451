"""From finished parts to the finished folder: select, write, report, describe. Used by `build` and by `merge`."""

import dataclasses
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pretokenizer.chat.formats import TEMPLATE_NAME, ChatFormat
from pretokenizer.config.settings import RunOptions
from pretokenizer.files.checksums import FileRecord, FinishedFiles
from pretokenizer.files.manifest import MANIFEST_NAME, DataManifest, DatasetCounts, SplitManifest
from pretokenizer.files.publish import write_json_atomic, write_text_atomic
from pretokenizer.files.shard import optimal_dtype
from pretokenizer.output.write_shards import write_shards
from pretokenizer.reports.lengths import LengthReport, length_report, plot_histograms
from pretokenizer.reports.markdown import PLOT_NAME, has_plots, markdown_report
from pretokenizer.reports.published import published_report
from pretokenizer.reports.stats import DatasetStats, dataset_stats, total_stats
from pretokenizer.selection.document_table import DocumentTable, read_tables
from pretokenizer.selection.duplicates import DuplicateReport, handle_duplicates
from pretokenizer.selection.select_documents import Selected, select
from pretokenizer.selection.token_store import TokenStore
from pretokenizer.tasks.bad_records import MAX_EXAMPLES, refuse_too_many
from pretokenizer.tasks.part_files import PartHeader, found_mismatch
from pretokenizer.tasks.plan import Plan
from pretokenizer.tokenizer.base import Tokenizer

PACKAGES = ("oasst-megatron", "numpy", "sentencepiece", "tokenizers", "gigatoken", "orjson")


def assemble(
    plan: Plan,
    tokenizer: Tokenizer,
    chat_format: ChatFormat,
    part_folders: list[Path],
    output: Path,
    final: Path,
    options: RunOptions,
) -> DataManifest:
    """Make everything that belongs into the finished folder in `output`; `final` is the name it will get.

    Raises BadRecordsError when more than `options.max_bad_fraction` of a data set's records are bad.
    """
    dtype = optimal_dtype(tokenizer.vocab_size)
    store = TokenStore(dtype)
    tables = read_tables(plan, part_folders, store.dtype.itemsize)
    headers = [[header for table in pair if table for header in table.headers] for pair in tables]
    warnings = refuse_too_many([entry.name for entry in plan.config.entries], headers, options.max_bad_fraction)
    splits = select(plan, tables)
    splits, duplicates = handle_duplicates(splits, store, plan.config.dedup == "exact")
    warnings += [*filter(None, map(found_mismatch, part_folders)), *_empty_sets(splits["train"])]

    with FinishedFiles(options.workers) as finished:
        stats = _write_splits(plan, splits, store, output, final, finished)
        write_json_atomic_compact(output / "special_tokens.json", tokenizer.special_tokens)
        save_tokenizer(output / "tokenizer", tokenizer, chat_format)
        reports = _reports(plan, tables, headers, warnings, duplicates)
        described = _write_length_figures(stats, output)
        report = markdown_report(plan, final, splits, stats, described, reports, store, tokenizer, chat_format)
        write_text_atomic(output / "stats.md", report, sync=False)
        everything = {
            "splits": {split: [s.to_json() for s in parts] for split, parts in stats.items()},
            "totals": {split: total_stats(parts).to_json() for split, parts in stats.items()},
            "lengths": {split: dataclasses.asdict(lengths) for split, lengths in described.items()},
            **reports,
        }
        write_json_atomic(output / "stats.json", everything, sync=False)
        manifest = _manifest(plan, tokenizer, chat_format, splits, stats, reports, output, finished)
    manifest.save(output)
    return manifest


def _empty_sets(train: list[Selected]) -> list[str]:
    """A line for each data set of which nothing is trained on, or one for all of them."""
    if not any(selected.documents.size for selected in train):
        return ["train has no document at all: nothing can be trained on this (the reasons are in stats.md)"]
    return [
        f"{selected.name}: none of its documents is in train (the reasons are in stats.md)"
        for selected in train
        if not selected.documents.size
    ]


def _write_splits(
    plan: Plan,
    splits: dict[str, list[Selected]],
    store: TokenStore,
    output: Path,
    final: Path,
    finished: FinishedFiles,
) -> dict[str, list[DatasetStats]]:
    """Shards and published report of each split that has documents; their figures."""
    stats = {}
    for split, chosen in splits.items():
        prefix = output / f"{plan.config.filename_prefix}-{split}"
        if split == "val" and not any(selected.processed.size for selected in chosen):
            continue
        if any(selected.documents.size for selected in chosen):
            for path in write_shards(prefix, chosen, store, plan.config.write_json):
                finished.add(path)
        stats[split] = [dataset_stats(selected, split == "train") for selected in chosen]
        published = published_report(f"{final}/{prefix.name}", stats[split])
        write_text_atomic(prefix.with_name(prefix.name + "_stats.txt"), published, sync=False)
    return stats


def _write_length_figures(stats: dict[str, list[DatasetStats]], output: Path) -> dict[str, LengthReport]:
    """The figures of each split; the plot beside the report where Pillow is there."""
    all_lengths = {split: total_stats(parts).lengths for split, parts in stats.items()}
    if has_plots() and any(lengths.size for lengths in all_lengths.values()):
        plot_histograms(all_lengths, output / PLOT_NAME)
    return {split: length_report(lengths) for split, lengths in all_lengths.items()}


def save_tokenizer(folder: Path, tokenizer: Tokenizer, chat_format: ChatFormat) -> None:
    """The tokenizer and its chat template, as `tokenizer/` of an output or of a part."""
    tokenizer.save(folder, chat_format.name)
    write_text_atomic(folder / TEMPLATE_NAME, chat_format.hf_chat_template, sync=False)


def write_json_atomic_compact(path: Path, value: dict[str, Any]) -> None:
    """JSON as the original dumps it: one line, no line feed at the end."""
    import json

    write_text_atomic(path, json.dumps(value), sync=False)


def _reports(
    plan: Plan,
    tables: list[tuple[DocumentTable, DocumentTable | None]],
    headers: list[list[PartHeader]],
    warnings: list[str],
    duplicates: DuplicateReport,
) -> dict[str, Any]:
    flat = [header for parts in headers for header in parts]
    bad = {
        f"{number}:{entry.name}": {
            "records": sum(header.num_records for header in parts),
            "reasons": dict(sum((header.bad for header in parts), Counter[str]())),
            "examples": [example for header in parts for example in header.bad_examples][:MAX_EXAMPLES],
        }
        for number, (entry, parts) in enumerate(zip(plan.config.entries, headers, strict=True))
        if any(header.bad for header in parts)
    }
    contaminated = {
        f"{number}:{entry.name}": int(table.contaminated.sum())
        for number, (entry, (table, _)) in enumerate(zip(plan.config.entries, tables, strict=True))
    }
    return {
        "engines": sorted({header.engine for header in flat if header.engine}),
        "warnings": list(dict.fromkeys([*warnings, *(warning for header in flat for warning in header.warnings)])),
        "bad_records": bad,
        "duplicates": dataclasses.asdict(duplicates),
        "contaminated": contaminated if plan.config.decontaminate else {},
        "files": [[str(path) for path in (*files.train, *files.val)] for files in plan.datasets],
    }


def _manifest(
    plan: Plan,
    tokenizer: Tokenizer,
    chat_format: ChatFormat,
    splits: dict[str, list[Selected]],
    stats: dict[str, list[DatasetStats]],
    reports: dict[str, Any],
    output: Path,
    finished: FinishedFiles,
) -> DataManifest:
    end_of_turn = tokenizer.token_to_id(chat_format.end_of_turn)
    assert end_of_turn is not None
    files = sorted(path for path in output.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    for path in files:
        finished.add(path)
    return DataManifest(
        chat_format=chat_format.name,
        vocab_size=tokenizer.vocab_size,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_of_turn,
        bos_token_id=tokenizer.bos_token_id,
        tokenizer_fingerprint=tokenizer.fingerprint,
        special_tokens=tokenizer.special_tokens,
        splits={
            split: SplitManifest(
                prefix=f"{plan.config.filename_prefix}-{split}",
                documents=sum(s.accepted for s in parts),
                tokens=sum(s.tokens for s in parts),
                datasets=[DatasetCounts(s.name, s.accepted, s.tokens, s.skipped) for s in parts],
            )
            for split, parts in stats.items()
            if any(s.accepted for s in parts)
        },
        section=dataclasses.asdict(plan.config),
        versions=versions(),
        inputs={path: FileRecord(**record) for path, record in plan.inputs.items()},
        outputs={path.relative_to(output).as_posix(): finished.record(path) for path in files},
        reports=reports,
    )


def versions() -> dict[str, str]:
    """Versions of what the bytes depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
