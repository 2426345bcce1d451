"""Draw what `pretokenizer inspect` prints in a colour terminal as a PNG, for the README.

    python -m examples.inspect_picture output/demo/data_stage1/demo_stage1-train docs/inspect.png --start 161 --num 2

Needs matplotlib (`pip install 'oasst-megatron[plots]'`).
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from pretokenizer.output.inspect_documents import inspect_path

COLUMNS = 114
"""Characters in a line of the picture."""
BACKGROUND, FOREGROUND = "#1e1f29", "#d8dee9"
COLOURS = {"31": "#ff6b6b", "32": "#8ce99a", "33": "#ffd43b", "34": "#74c0fc", "35": "#e599f7", "36": "#66d9e8"}
"""SGR colour code -> colour of the picture."""
FONT_SIZE, CHARACTER_WIDTH, LINE_HEIGHT = 11, 0.0909, 0.215
"""Points, and the size of a character cell of DejaVu Sans Mono in inches."""


@dataclass(frozen=True)
class Run:
    """Neighbouring characters of one line of terminal output that have the same colour and underline."""

    text: str
    colour: str = FOREGROUND
    underlined: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", type=Path, help="shards, as for `pretokenizer inspect`")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--start", type=int, default=0, help="first document [0]")
    parser.add_argument("--num", type=int, default=1, help="documents to draw [1]")
    options = parser.parse_args()
    lines = inspect_path(options.prefix, options.num, options.start, plain=False)
    draw(styled_lines("\n".join(lines)), options.picture)
    return 0


def styled_lines(text: str) -> list[list[Run]]:
    """Split terminal output with colour codes into lines of styled runs, wrapped at COLUMNS characters."""
    lines: list[list[Run]] = []
    for line in text.rstrip().split("\n"):
        rows: list[list[Run]] = [[]]
        room = COLUMNS
        for run in runs_of(line):
            rest = run.text
            while rest:
                if not room:
                    rows.append([])
                    room = COLUMNS
                part = rest[:room]
                if len(rest) > room and " " in part:
                    part = part[: part.rindex(" ") + 1]
                rows[-1].append(Run(part, run.colour, run.underlined))
                rest = rest[len(part) :]
                room = COLUMNS - sum(len(one.text) for one in rows[-1]) if not rest else 0
        lines += rows
    return lines


def runs_of(line: str) -> list[Run]:
    """Split one line at its colour codes into styled runs: `\\033[32;4mtext\\033[0m` is green and underlined."""
    runs, colour, underlined = [], FOREGROUND, False
    for codes, text in re.findall(r"(?:\033\[([\d;]*)m)?([^\033]*)", line):
        for code in codes.split(";") if codes else ():
            if code == "0":
                colour, underlined = FOREGROUND, False
            elif code == "4":
                underlined = True
            else:
                colour = COLOURS[code]
        if text:
            runs.append(Run(text, colour, underlined))
    return runs


def draw(lines: list[list[Run]], picture: Path) -> None:
    """Write the lines of styled runs as a PNG, `picture`, with one fixed cell per character."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    width, height = (COLUMNS + 4) * CHARACTER_WIDTH, (len(lines) + 1.2) * LINE_HEIGHT
    figure = plt.figure(figsize=(width, height), facecolor=BACKGROUND)
    for row, runs in enumerate(lines):
        column, y = 2, height - (row + 1.2) * LINE_HEIGHT
        for run in runs:
            left, right = column * CHARACTER_WIDTH / width, (column + len(run.text.rstrip())) * CHARACTER_WIDTH / width
            figure.text(
                left,
                y / height,
                run.text.replace("$", r"\$"),
                color=run.colour,
                family="DejaVu Sans Mono",
                fontsize=FONT_SIZE,
            )
            if run.underlined:
                under = (y - 0.05) / height
                figure.add_artist(plt.Line2D([left, right], [under, under], color=run.colour, linewidth=0.6))
            column += len(run.text)
    figure.savefig(picture, dpi=110, facecolor=BACKGROUND, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main())
