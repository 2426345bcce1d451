"""Compose stats.md and stats.html: verdict, records, mix of data sets, figures of each split, checks and documents."""

from pathlib import Path

from pretokenizer.figures.examples import Example
from pretokenizer.figures.lengths import GLOBAL_BATCHES, SEQ_LENGTHS, LengthReport, text_histogram
from pretokenizer.figures.stats import DatasetStats, total_stats
from pretokenizer.reports.blocks import Block, Bullets, Document, Heading, Lengths, Paragraph, Table
from pretokenizer.reports.build_reports import BuildReports
from pretokenizer.reports.inputs import input_blocks
from pretokenizer.reports.verdict import suspicions, verdict
from pretokenizer.tasks.context import BuildContext


def report_blocks(context: BuildContext, reports: BuildReports, examples: list[Example]) -> list[Block]:
    """Return the blocks of stats.md and stats.html in order, from the verdict to the sample documents in `examples`."""
    found = suspicions(reports)
    blocks: list[Block] = [
        Heading(1, context.final.name),
        *(Paragraph(sentence) for sentence in verdict(reports)),
        Paragraph("Look at this before training:" if found else "Nothing in this data looks suspicious."),
        *([Bullets(found)] if found else []),
        Paragraph(
            f"Chat format `{context.chat_format.name}`, {context.tokenizer.vocab_size:,} tokens in the vocabulary"
            f" (`{Path(context.config.vocab_file or '').name}`), encoded by {'; '.join(reports.engines)}."
        ),
        *_records(reports),
        *_mix(reports.stats["train"]),
    ]
    for split, parts in reports.stats.items():
        blocks += _split(split, parts, reports.lengths[split])
    blocks += [Heading(2, "Files"), *(block for own in reports.inputs for block in input_blocks(own))]
    return [*blocks, *_checks(context, reports), *_documents(examples)]


def _records(reports: BuildReports) -> list[Block]:
    """Return the section with a table that gives each record read exactly one outcome: train, val, left out, or bad."""
    rows, reasons = [], []
    for own in reports.records:
        left_out, bad = sum(own.left_out.values()), sum(own.bad.values())
        rows.append([own.name, *(f"{n:,}" for n in (own.records, own.train, own.val, left_out, bad))])
        reasons += [f"{own.name}: {count:,} left out: {reason}" for reason, count in own.left_out.items()]
        reasons += [f"{own.name}: {count:,} bad: {reason}" for reason, count in own.bad.items()]
    return [
        Heading(2, "Records"),
        Paragraph("Every record that was read is counted once."),
        Table(["data set", "read", "in train", "in val", "left out", "bad"], rows),
        *([Bullets(reasons)] if reasons else []),
    ]


def _mix(train: list[DatasetStats]) -> list[Block]:
    """Return the section that compares the share of each data set in train as requested with its share as written."""
    requested = sum(s.requested for s in train)
    documents, tokens = sum(s.accepted for s in train), sum(s.tokens for s in train)
    rows = [
        [
            s.name,
            f"{s.candidates:,}",
            f"{s.requested:,}",
            f"{s.accepted:,}",
            *(_share(n, total) for n, total in ((s.requested, requested), (s.accepted, documents), (s.tokens, tokens))),
        ]
        for s in train
    ]
    header = ["data set", "documents", "requested", "written", "share requested", "share of documents", "of tokens"]
    return [Heading(2, "Mix of train"), Table(header, rows)]


def _split(split: str, parts: list[DatasetStats], lengths: LengthReport) -> list[Block]:
    total = total_stats(parts)
    blocks: list[Block] = [Heading(2, split), _overview(parts, total), *_turns(total), *_roles(parts, total)]
    left_out = [
        f"{s.name}: {count:,} documents left out: {reason}" for s in parts for reason, count in s.skipped.items()
    ]
    blocks += [Bullets(left_out)] if left_out else []
    if set(total.languages) - {"unknown"}:
        listed = ", ".join(f"{name} {count:,}" for name, count in total.languages.items())
        blocks.append(Paragraph(f"Documents by language: {listed}."))
    if not lengths.counts:
        return blocks
    blocks.append(Lengths(split, text_histogram(lengths.bounds, lengths.counts)))
    blocks += _seq_lengths(total, lengths)
    return [*blocks, *_epochs(total, lengths)] if split == "train" else blocks


def _overview(parts: list[DatasetStats], total: DatasetStats) -> Table:
    names = ("min", "median", "mean", "p95", "p99", "max")
    rows = []
    for s in (*parts, total):
        counts = (s.processed, s.accepted, s.processed - s.accepted, s.tokens)
        figures = s.length_figures()
        rows.append([s.name, *(f"{n:,}" for n in counts), *(f"{figures[name]:,.0f}" for name in names)])
    return Table(["data set", "drawn", "written", "left out", "tokens", *names], rows)


def _turns(total: DatasetStats) -> list[Block]:
    if not total.turns.size:
        return []
    figures = total.turn_figures()
    return [
        Paragraph(
            f"Turns per conversation: {figures['min']:,.0f} to {figures['max']:,.0f}, median {figures['median']:,.0f},"
            f" mean {figures['mean']:,.1f}; {(total.turns <= 2).mean():.0%} have at most 2."
        )
    ]


def _roles(parts: list[DatasetStats], total: DatasetStats) -> list[Block]:
    names = list(total.role_tokens)
    rows = [
        [s.name, *(f"{s.role_tokens.get(name, 0):,}" for name in names), _share(s.loss_tokens, s.tokens)]
        for s in (*parts, total)
    ]
    return [
        Paragraph("Tokens by role. Tokens of `assistant` get loss."),
        Table(["data set", *names, "share with loss"], rows),
    ]


def _seq_lengths(total: DatasetStats, lengths: LengthReport) -> list[Block]:
    rows = [
        [
            f"{row.seq_length:,}",
            f"{row.documents_cut:,} ({row.documents_cut / total.accepted:.1%})",
            f"{row.tokens_lost:,} ({row.tokens_lost / total.tokens:.1%})",
            f"{row.packed_rows:,}",
            f"{row.packed_share:.1%}",
        ]
        for row in lengths.seq_lengths
    ]
    return [
        Paragraph("What each `seq_length` costs (longer documents are cut at the end), and how full packed rows are:"),
        Table(["seq_length", "documents cut", "tokens lost", "packed rows", "filled"], rows, num_text_columns=0),
    ]


def _epochs(total: DatasetStats, lengths: LengthReport) -> list[Block]:
    rows = [
        [f"{batch}", *(f"{count:,.1f}" for count in lengths.iterations_per_epoch[batch].values())]
        for batch in GLOBAL_BATCHES
    ]
    text = (
        f"Iterations of one epoch, for {total.accepted:,} rows of one document each, and for packed rows of N tokens:"
    )
    header = ["global batch", "not packed", *(f"{length:,}" for length in SEQ_LENGTHS)]
    return [Paragraph(text), Table(header, rows, num_text_columns=0)]


def _checks(context: BuildContext, reports: BuildReports) -> list[Block]:
    duplicates = reports.duplicates
    controls = sum(s.control_tokens_in_text for parts in reports.stats.values() for s in parts)
    straddling = sum(s.straddling_tokens for parts in reports.stats.values() for s in parts)
    kept = "encoded as control tokens" if context.config.special_tokens_in_text == "encode" else "kept as text"
    items = [
        f"Control tokens spelled inside messages: {controls:,}" + (f" ({kept})" if controls else ""),
        f"Tokens that straddle the border of a reply and get no loss: {straddling:,}",
        f"Exact duplicates inside train: {duplicates.train:,}; inside val: {duplicates.val:,}",
        f"Val documents that also occur in train: {duplicates.leaked:,}",
        f"Left out as duplicates (`--dedup {context.config.dedup}`): {duplicates.removed:,}",
    ]
    pairs = ["; ".join(f"{split}: {place}" for split, place in pair.items()) for pair in duplicates.examples]
    details = {3: pairs} if pairs else {}
    if reports.near_duplicates:
        near = reports.near_duplicates
        pairs = [f"{pair['document']} resembles {pair['resembles']}" for pair in near.examples]
        details |= {len(items): pairs} if pairs else {}
        items.append(
            f"Near-duplicates inside train: {near.train:,}; val documents that resemble train: {near.leaked:,}"
        )
    for name, count in reports.contaminated.values():
        items.append(f"{name}: {count:,} documents share a run of words with a test question")
    for bad in reports.bad_records.values():
        details[len(items)] = bad.examples
        total = sum(bad.reasons.values())
        items.append(f"{bad.name}: {total:,} of {bad.num_records:,} records are bad; the first are")
    items += [f"Warning: {warning}" for warning in reports.warnings]
    return [Heading(2, "Checks"), Bullets(items, details)]


def _documents(examples: list[Example]) -> list[Block]:
    return [Heading(2, "Documents"), *map(Document, examples)]


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"
