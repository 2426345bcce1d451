"""Write the reports of a build into the output folder: published statistics, stats.md and stats.json."""

from pathlib import Path

from pretokenizer.files.publish import write_json_atomic, write_text_atomic
from pretokenizer.reports.build_reports import BuildReports
from pretokenizer.reports.examples import Example
from pretokenizer.reports.markdown import markdown_report
from pretokenizer.reports.plots import PLOT_NAME
from pretokenizer.reports.published import published_report
from pretokenizer.tasks.context import BuildContext


def write_reports(context: BuildContext, reports: BuildReports, examples: list[Example], output: Path) -> None:
    """Write all reports. stats.md shows the plot of lengths if `output` has one."""
    for split, parts in reports.stats.items():
        name = f"{context.config.filename_prefix}-{split}"
        published = published_report(f"{context.final}/{name}", parts)
        write_text_atomic(output / f"{name}_stats.txt", published, sync=False)
    has_plot = (output / PLOT_NAME).is_file()
    write_text_atomic(output / "stats.md", markdown_report(context, reports, examples, has_plot), sync=False)
    write_json_atomic(output / "stats.json", reports.to_json(), sync=False)
