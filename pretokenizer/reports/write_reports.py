"""Write the reports of a build into the output folder: published statistics, stats.md, stats.json, lengths.png."""

from pathlib import Path

from pretokenizer.files.publish import write_json_atomic, write_text_atomic
from pretokenizer.reports.build_reports import BuildReports
from pretokenizer.reports.examples import Example
from pretokenizer.reports.markdown import markdown_report
from pretokenizer.reports.plots import PLOT_NAME, has_plots, plot_lengths
from pretokenizer.reports.published import published_report
from pretokenizer.reports.stats import total_stats
from pretokenizer.tasks.context import BuildContext


def write_reports(context: BuildContext, reports: BuildReports, examples: list[Example], output: Path) -> None:
    """Write all reports. The plot is left out where matplotlib is not installed or no split has a document."""
    for split, parts in reports.stats.items():
        name = f"{context.config.filename_prefix}-{split}"
        published = published_report(f"{context.final}/{name}", parts)
        write_text_atomic(output / f"{name}_stats.txt", published, sync=False)
    lengths = {split: total_stats(parts).lengths for split, parts in reports.stats.items()}
    if has_plots() and any(values.size for values in lengths.values()):
        plot_lengths(lengths, output / PLOT_NAME)
    write_text_atomic(output / "stats.md", markdown_report(context, reports, examples), sync=False)
    write_json_atomic(output / "stats.json", reports.to_json(), sync=False)
