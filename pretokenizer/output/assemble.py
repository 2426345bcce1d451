"""Turn finished part files into the output folder: select documents, write shards, reports and manifest."""

from pathlib import Path

from pretokenizer.figures.accounting import count_records
from pretokenizer.figures.examples import sample_documents
from pretokenizer.figures.lengths import length_report
from pretokenizer.figures.stats import DatasetStats, dataset_stats, total_stats
from pretokenizer.files.checksums import FinishedFiles
from pretokenizer.files.manifest import DataManifest
from pretokenizer.files.publish import write_text_atomic
from pretokenizer.files.shard import optimal_dtype
from pretokenizer.output.describe import make_manifest, save_tokenizer, special_tokens_json
from pretokenizer.output.write_shards import write_shards
from pretokenizer.reports.build_reports import (
    BuildReports,
    bad_records,
    contaminated,
    engines_of,
    warnings_of,
)
from pretokenizer.reports.inputs import file_warnings, input_reports
from pretokenizer.reports.plots import drawing
from pretokenizer.reports.write_reports import write_reports
from pretokenizer.selection.document_table import part_headers, read_tables
from pretokenizer.selection.duplicates import handle_duplicates
from pretokenizer.selection.near_duplicates import count_near_duplicates
from pretokenizer.selection.select_documents import Selected, select
from pretokenizer.selection.token_store import TokenStore
from pretokenizer.tasks.bad_records import refuse_too_many
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.part_files import found_mismatch

NUM_EXAMPLES = 3
"""Number of example documents that stats.md shows."""


def assemble(context: BuildContext, part_folders: list[Path], output: Path) -> DataManifest:
    """Write the complete contents of the output folder to `output` from the parts in `part_folders`.

    Return the manifest of the folder. Raises BadRecordsError when more than `max_bad_fraction` of a data set's records
    are bad, ConfigError when a data set is too small for its split or size, and PartError for a damaged part.
    """
    store = TokenStore(optimal_dtype(context.tokenizer.vocab_size))
    tables = read_tables(context.plan, part_folders, store.dtype.itemsize)
    names = [entry.name for entry in context.config.entries]
    warnings = refuse_too_many(names, part_headers(tables), context.options.max_bad_fraction)
    chosen = select(context.plan, tables)
    chosen, duplicates = handle_duplicates(chosen, store, context.config.dedup == "exact")
    warnings += [*map(str, filter(None, map(found_mismatch, part_folders))), *_empty_sets(chosen["train"])]
    with FinishedFiles(context.options.workers) as finished:
        stats = _count(context, chosen)
        lengths = {split: length_report(total_stats(parts).lengths) for split, parts in stats.items()}
        histograms = {split: (report.bounds, report.counts) for split, report in lengths.items()}
        with drawing(histograms, output):
            _write_splits(context, chosen, store, output, finished)
        write_text_atomic(output / "special_tokens.json", special_tokens_json(context.tokenizer), sync=False)
        save_tokenizer(output / "tokenizer", context.tokenizer, context.chat_format)
        inputs = input_reports(context, part_headers(tables))
        reports = BuildReports(
            stats=stats,
            records=count_records(names, tables, chosen),
            lengths=lengths,
            engines=engines_of(tables),
            warnings=list(dict.fromkeys([*warnings, *file_warnings(inputs), *warnings_of(tables)])),
            bad_records=bad_records(context, tables),
            duplicates=duplicates,
            near_duplicates=count_near_duplicates(chosen, store) if context.config.near_duplicates else None,
            contaminated=contaminated(context, tables),
            inputs=inputs,
            files=[[str(path) for path in (*files.train, *files.val)] for files in context.plan.datasets],
        )
        write_reports(context, reports, sample_documents(chosen["train"], store, NUM_EXAMPLES), output)
        manifest = make_manifest(context, reports, output, finished)
    manifest.save(output)
    return manifest


def _empty_sets(train: list[Selected]) -> list[str]:
    """Return a warning for each data set without a document in train, or a single warning if train has none at all."""
    if not any(selected.documents.size for selected in train):
        return ["train has no document at all: nothing can be trained on this (the reasons are in stats.md)"]
    return [
        f"{selected.name}: none of its documents is in train (the reasons are in stats.md)"
        for selected in train
        if not selected.documents.size
    ]


def _count(context: BuildContext, chosen: dict[str, list[Selected]]) -> dict[str, list[DatasetStats]]:
    """Return the statistics of each data set, by split. The split val is absent when it has no samples."""
    entries = context.config.entries
    return {
        split: [dataset_stats(selected, entries[selected.dataset], split == "train") for selected in selection]
        for split, selection in chosen.items()
        if split == "train" or any(selected.processed.size for selected in selection)
    }


def _write_splits(
    context: BuildContext, chosen: dict[str, list[Selected]], store: TokenStore, output: Path, finished: FinishedFiles
) -> None:
    """Write the shards of each split that has documents, and let `finished` hash their .bin files in the background."""
    for split, selection in chosen.items():
        if any(selected.documents.size for selected in selection):
            prefix = output / f"{context.config.filename_prefix}-{split}"
            for path in write_shards(prefix, selection, store, context.config.write_json):
                finished.add(path)
