"""`stats.md`, the report for people: figures per split, lengths, packing, epochs, and documents as trained on."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.formats import ChatFormat
from pretokenizer.reports.lengths import GLOBAL_BATCHES, PACKED_LENGTHS, LengthReport, text_histogram
from pretokenizer.reports.render import render_document
from pretokenizer.reports.stats import DatasetStats, total_stats
from pretokenizer.selection.select_documents import Selected
from pretokenizer.selection.token_store import TokenStore
from pretokenizer.tasks.plan import Plan
from pretokenizer.tokenizer.base import Tokenizer

PLOT_NAME = "lengths.png"
NUM_EXAMPLES = 3
EXAMPLE_TOKENS = 600
"""Longer documents are cut in the report."""


def markdown_report(
    plan: Plan,
    final: Path,
    splits: dict[str, list[Selected]],
    stats: dict[str, list[DatasetStats]],
    lengths: dict[str, LengthReport],
    reports: dict[str, Any],
    store: TokenStore,
    tokenizer: Tokenizer,
    chat_format: ChatFormat,
) -> str:
    """The whole report as Markdown."""
    config = plan.config
    lines = [
        f"# {final.name}",
        "",
        f"Chat format `{chat_format.name}`, {tokenizer.vocab_size:,} tokens in the vocabulary"
        f" (`{Path(config.vocab_file or '').name}`), encoded by {'; '.join(reports['engines'])}.",
        "",
    ]
    for split, parts in stats.items():
        total = total_stats(parts)
        lines += [f"## {split}", "", *_overview(parts, total), "", *_roles(parts, total), ""]
        lines += [*_left_out(parts), *_languages(total), *_lengths(split, lengths[split])]
        lines += _seq_lengths(total, lengths[split])
        if split == "train":
            lines += _epochs(total, lengths[split])
    lines += _data_quality(plan, reports, stats)
    lines += _examples(splits, store, tokenizer)
    return "\n".join(lines).rstrip() + "\n"


def _overview(parts: list[DatasetStats], total: DatasetStats) -> list[str]:
    rows = [
        "| data set | samples | accepted | left out | tokens | min | median | mean | p95 | p99 | max |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for s in (*parts, total):
        f = s.length_figures()
        share = f" ({s.accepted / s.processed:.1%})" if s.processed else ""
        figures = " | ".join(f"{f[name]:,.0f}" for name in ("min", "median", "mean", "p95", "p99", "max"))
        skipped = s.processed - s.accepted
        rows.append(f"| {s.name} | {s.samples:,} | {s.accepted:,}{share} | {skipped:,} | {s.tokens:,} | {figures} |")
    return rows


def _roles(parts: list[DatasetStats], total: DatasetStats) -> list[str]:
    names = list(total.role_tokens)
    rows = [
        "Tokens by role; `assistant` gets loss.",
        "",
        f"| data set | {' | '.join(names)} | share with loss |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for s in (*parts, total):
        share = f"{s.loss_tokens / s.tokens:.1%}" if s.tokens else "-"
        rows.append(f"| {s.name} | {' | '.join(f'{s.role_tokens.get(name, 0):,}' for name in names)} | {share} |")
    return rows


def _left_out(parts: list[DatasetStats]) -> list[str]:
    lines = []
    for s in parts:
        lines += [f"- {s.name}: {count:,} samples left out: {reason}" for reason, count in s.skipped.items()]
        lines += [f"- {s.name}: {count:,} records are no samples: {reason}" for reason, count in s.dropped.items()]
    return ["Left out:", "", *lines, ""] if lines else []


def _languages(total: DatasetStats) -> list[str]:
    known = {name: count for name, count in total.languages.items() if name != "unknown"}
    if not known:
        return []
    listed = ", ".join(f"{name} {count:,}" for name, count in total.languages.items())
    return [f"Documents by language: {listed}.", ""]


def _lengths(split: str, lengths: LengthReport) -> list[str]:
    if not lengths.counts:
        return []
    lines = ["Tokens per document:", "", "```", *text_histogram(lengths.bounds, lengths.counts), "```", ""]
    return [*lines, f"![lengths]({PLOT_NAME})", ""] if has_plots() and split == "train" else lines


def has_plots() -> bool:
    """Whether Pillow is installed, which comes with the extra `plots`."""
    from importlib.util import find_spec

    return find_spec("PIL") is not None


def _seq_lengths(total: DatasetStats, lengths: LengthReport) -> list[str]:
    if not lengths.seq_lengths:
        return []
    rows = [
        "What a `seq_length` costs (a longer document is cut at its end), and how full packed rows are:",
        "",
        "| seq_length | documents cut | tokens lost | packed rows | filled |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in lengths.seq_lengths:
        documents = f"{row.documents_cut:,} ({row.documents_cut / total.accepted:.1%})"
        tokens = f"{row.tokens_lost:,} ({row.tokens_lost / total.tokens:.1%})"
        packed = "- | -" if row.packed_rows is None else f"{row.packed_rows:,} | {row.packed_share:.1%}"
        rows.append(f"| {row.seq_length:,} | {documents} | {tokens} | {packed} |")
    return [*rows, ""]


def _epochs(total: DatasetStats, lengths: LengthReport) -> list[str]:
    if not lengths.iterations_per_epoch:
        return []
    rows = [
        "One epoch in iterations, by global batch size:",
        "",
        f"| global batch | {total.accepted:,} documents | "
        + " | ".join(f"packed at {n:,}" for n in PACKED_LENGTHS)
        + " |",
        "|---:|" + "---:|" * (1 + len(PACKED_LENGTHS)),
    ]
    for batch in GLOBAL_BATCHES:
        iterations = lengths.iterations_per_epoch[batch].values()
        rows.append(f"| {batch} | " + " | ".join(f"{count:,.1f}" for count in iterations) + " |")
    return [*rows, ""]


def _data_quality(plan: Plan, reports: dict[str, Any], stats: dict[str, list[DatasetStats]]) -> list[str]:
    duplicates = reports["duplicates"]
    controls = sum(s.control_tokens_in_text for parts in stats.values() for s in parts)
    kept = "they became control tokens" if plan.config.special_tokens_in_text == "encode" else "they stay text"
    lines = [
        "## Checks",
        "",
        f"- Control tokens spelled inside messages: {controls:,}" + (f" ({kept})" if controls else ""),
        f"- Exact duplicates inside train: {duplicates['train']:,}; inside val: {duplicates['val']:,}",
        f"- Val documents that also occur in train: {duplicates['leaked']:,}",
        f"- Left out as duplicates (`--dedup {plan.config.dedup}`): {duplicates['removed']:,}",
    ]
    for example in duplicates["examples"]:
        val, train = example["val"], example["train"]
        lines.append(
            f"  - val: {val['dataset']} file {val['file']} record {val['record']};"
            f" train: {train['dataset']} file {train['file']} record {train['record']}"
        )
    for name, count in reports["contaminated"].items():
        lines.append(f"- {name.partition(':')[2]}: {count:,} documents share a run of words with a test question")
    for name, bad in reports["bad_records"].items():
        total = sum(bad["reasons"].values())
        lines.append(f"- {name.partition(':')[2]}: {total:,} of {bad['records']:,} records are bad and left out:")
        lines += [f"  - {count:,} x {reason}" for reason, count in bad["reasons"].items()]
        lines += [f"  - `{example}`" for example in bad["examples"]]
    lines += [f"- Warning: {warning}" for warning in reports["warnings"]]
    return [*lines, ""]


def _examples(splits: dict[str, list[Selected]], store: TokenStore, tokenizer: Tokenizer) -> list[str]:
    """A few train documents, spread over the data sets, as `inspect --plain` shows them."""
    lines = [
        "## Documents",
        "",
        "Each run of tokens of one role stands in brackets; `*` marks those that get loss.",
        "",
    ]
    with_documents = [selected for selected in splits["train"] if selected.documents.size]
    for i in range(NUM_EXAMPLES if with_documents else 0):
        selected = with_documents[i % len(with_documents)]
        documents = selected.documents
        document = documents[
            (i // len(with_documents)) % documents.size : (i // len(with_documents)) % documents.size + 1
        ]
        ids: NDArray[Any] = store.gather(selected.table, document)
        roles = store.gather_roles(selected.table, document, np.uint8)
        text = render_document(ids[:EXAMPLE_TOKENS], roles[:EXAMPLE_TOKENS], tokenizer, plain=True)
        cut = f" ({ids.size - EXAMPLE_TOKENS} more tokens)" if ids.size > EXAMPLE_TOKENS else ""
        fence = fence_of(text)
        lines += [f"{selected.name}, {ids.size} tokens:", "", fence, text + cut, fence, ""]
    return lines


def fence_of(text: str) -> str:
    """A fence that no line of the text can close."""
    return "~" * max(4, 1 + max(map(len, re.findall("~+", text)), default=0))
