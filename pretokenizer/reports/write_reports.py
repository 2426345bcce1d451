"""Write the reports of a build into the output folder: published statistics, stats.md, stats.html and stats.json."""

from pathlib import Path

from pretokenizer.figures.examples import Example
from pretokenizer.files.publish import write_json_atomic, write_text_atomic
from pretokenizer.reports.build_reports import BuildReports
from pretokenizer.reports.html_page import to_html
from pretokenizer.reports.markdown import to_markdown
from pretokenizer.reports.plots import PLOT_NAME, PLOT_SVG
from pretokenizer.reports.published import published_report
from pretokenizer.reports.report import report_blocks
from pretokenizer.tasks.context import BuildContext


def write_reports(context: BuildContext, reports: BuildReports, examples: list[Example], output: Path) -> None:
    """Write all reports of a build into the folder `output`.

    stats.md and stats.html show the plot of document lengths if the folder has one. stats.html holds the plot itself,
    so `lengths.svg` is removed. `examples` are the sample documents that the reports show.
    """
    for split, parts in reports.stats.items():
        name = f"{context.config.filename_prefix}-{split}"
        published = published_report(f"{context.final}/{name}", parts)
        write_text_atomic(output / f"{name}_stats.txt", published, sync=False)
    blocks = report_blocks(context, reports, examples)
    has_plot = (output / PLOT_NAME).is_file()
    write_text_atomic(output / "stats.md", to_markdown(blocks, context.tokenizer, has_plot), sync=False)
    drawn = output / PLOT_SVG
    svg = drawn.read_text(encoding="utf-8") if drawn.is_file() else ""
    drawn.unlink(missing_ok=True)
    write_text_atomic(output / "stats.html", to_html(blocks, context.tokenizer, svg), sync=False)
    write_json_atomic(output / "stats.json", reports.to_json(), sync=False)
