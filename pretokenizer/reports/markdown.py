"""`stats.md`, the report for people: figures of each split, lengths, packing, epochs, checks and documents."""

import re
from pathlib import Path

from pretokenizer.reports.build_reports import BuildReports
from pretokenizer.reports.examples import Example
from pretokenizer.reports.inputs import input_lines
from pretokenizer.reports.lengths import GLOBAL_BATCHES, PACKED_LENGTHS, LengthReport, text_histogram
from pretokenizer.reports.plots import PLOT_NAME
from pretokenizer.reports.render import render_document
from pretokenizer.reports.stats import DatasetStats, total_stats
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tokenizer.base import Tokenizer


def markdown_report(context: BuildContext, reports: BuildReports, examples: list[Example], has_plot: bool) -> str:
    """Return the whole report as Markdown. `has_plot` tells whether the plot of lengths is beside it."""
    tokenizer = context.tokenizer
    lines = [
        f"# {context.final.name}",
        "",
        f"Chat format `{context.chat_format.name}`, {tokenizer.vocab_size:,} tokens in the vocabulary"
        f" (`{Path(context.config.vocab_file or '').name}`), encoded by {'; '.join(reports.engines)}.",
        "",
    ]
    for split, parts in reports.stats.items():
        total, lengths = total_stats(parts), reports.lengths[split]
        lines += [f"## {split}", "", *_overview(parts, total), "", *_roles(parts, total), ""]
        lines += [*_left_out(parts), *_languages(total), *_lengths(lengths)]
        if has_plot and split == "train":
            lines += [f"![lengths]({PLOT_NAME})", ""]
        lines += _seq_lengths(total, lengths)
        if split == "train":
            lines += _epochs(total, lengths)
    lines += ["## Files", "", *(line for report in reports.inputs for line in input_lines(report))]
    lines += _checks(context, reports)
    lines += _examples(examples, tokenizer)
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
        "Tokens by role. Tokens of `assistant` get loss.",
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
        lines += [f"- {s.name}: {count:,} records give no sample: {reason}" for reason, count in s.dropped.items()]
    return ["Left out:", "", *lines, ""] if lines else []


def _languages(total: DatasetStats) -> list[str]:
    known = {name: count for name, count in total.languages.items() if name != "unknown"}
    if not known:
        return []
    listed = ", ".join(f"{name} {count:,}" for name, count in total.languages.items())
    return [f"Documents by language: {listed}.", ""]


def _lengths(lengths: LengthReport) -> list[str]:
    if not lengths.counts:
        return []
    return ["Tokens per document:", "", "```", *text_histogram(lengths.bounds, lengths.counts), "```", ""]


def _seq_lengths(total: DatasetStats, lengths: LengthReport) -> list[str]:
    if not lengths.seq_lengths:
        return []
    rows = [
        "What each `seq_length` costs (longer documents are cut at the end), and how full packed rows are:",
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


def _checks(context: BuildContext, reports: BuildReports) -> list[str]:
    duplicates = reports.duplicates
    controls = sum(s.control_tokens_in_text for parts in reports.stats.values() for s in parts)
    kept = "encoded as control tokens" if context.config.special_tokens_in_text == "encode" else "kept as text"
    lines = [
        "## Checks",
        "",
        f"- Control tokens spelled inside messages: {controls:,}" + (f" ({kept})" if controls else ""),
        f"- Exact duplicates inside train: {duplicates.train:,}; inside val: {duplicates.val:,}",
        f"- Val documents that also occur in train: {duplicates.leaked:,}",
        f"- Left out as duplicates (`--dedup {context.config.dedup}`): {duplicates.removed:,}",
    ]
    for pair in duplicates.examples:
        lines.append("  - " + "; ".join(f"{split}: {place}" for split, place in pair.items()))
    for name, count in reports.contaminated.values():
        lines.append(f"- {name}: {count:,} documents share a run of words with a test question")
    for bad in reports.bad_records.values():
        total = sum(bad.reasons.values())
        lines.append(f"- {bad.name}: {total:,} of {bad.num_records:,} records are bad and left out:")
        lines += [f"  - {count:,} x {reason}" for reason, count in bad.reasons.items()]
        lines += [f"  - `{example}`" for example in bad.examples]
    lines += [f"- Warning: {warning}" for warning in reports.warnings]
    return [*lines, ""]


def _examples(examples: list[Example], tokenizer: Tokenizer) -> list[str]:
    """Show documents as `inspect --plain` does."""
    lines = ["## Documents", "", "Each run of tokens of one role is in brackets; `*` marks tokens with loss.", ""]
    for example in examples:
        text = render_document(example.token_ids, example.role_ids, tokenizer, plain=True)
        num_cut = example.num_tokens - len(example.token_ids)
        cut = f" ({num_cut} more tokens)" if num_cut else ""
        fence = fence_of(text)
        lines += [f"{example.dataset}, {example.num_tokens} tokens:", "", fence, text + cut, fence, ""]
    return lines


def fence_of(text: str) -> str:
    """Return a Markdown fence that no line of the text can close."""
    return "~" * max(4, 1 + max(map(len, re.findall("~+", text)), default=0))
