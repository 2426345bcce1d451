"""Write the report `<prefix>-train_stats.txt` in the layout of Open-Assistant's pretokenizer, byte for byte."""

from pretokenizer.figures.stats import DatasetStats, total_stats

_RULE = "-----------------"


def published_report(title: str, stats: list[DatasetStats]) -> str:
    """Return the statistics of a split in the layout of Open-Assistant's report. `title` is `<folder>/<prefix>`.

    `stats` holds those of each data set. The report adds their total.
    """
    return f"\n# Stats for {title}*\n\n" + "".join(_published_block(s) for s in [*stats, total_stats(stats)])


def _published_block(stats: DatasetStats) -> str:
    processed = stats.processed
    num_skipped = processed - stats.accepted
    accepted_share, skipped_share = (n / processed if processed else 0.0 for n in (stats.accepted, num_skipped))
    figures = stats.length_figures()
    lines = [
        f"## Stats for '{stats.report_name}' ({stats.samples} samples ({stats.fraction:.1%}))",
        _RULE,
        f"  Accepted: {stats.accepted}/{processed} ({accepted_share:.1%})",
        f"  Accepted tokens: {stats.tokens}",
        f"  Skipped: {num_skipped} ({skipped_share:.1%})",
        f"  Min tokens per sample: {figures['min']}",
        f"  Max tokens per sample: {figures['max']}",
        f"  Avg tokens per sample: {stats.tokens / stats.accepted if stats.accepted else 0.0}",
        _RULE,
    ]
    return "\n".join(lines) + "\n\n"
