"""Render the blocks of a report as Markdown, for `stats.md`."""

import re

from pretokenizer.reports.blocks import Block, Bullets, Document, Heading, Lengths, Paragraph, Table
from pretokenizer.reports.plots import PLOT_NAME
from pretokenizer.reports.render import render_document
from pretokenizer.tokenizer.base import Tokenizer


def to_markdown(blocks: list[Block], tokenizer: Tokenizer, has_plot: bool) -> str:
    """Return the blocks as Markdown. `has_plot` says whether the plot of document lengths is beside the report.

    A document is shown as `inspect --plain` shows it: brackets enclose each run of tokens of one role, and `*` marks
    tokens with loss.
    """
    parts = []
    for block in blocks:
        match block:
            case Heading():
                parts.append(f"{'#' * block.level} {block.text}")
            case Paragraph():
                parts.append(block.text)
            case Bullets():
                parts.append("\n".join(_bullets(block)))
            case Table():
                parts.append("\n".join(_table(block)))
            case Lengths():
                parts += ["Tokens per document:", "\n".join(["```", *block.lines, "```"])]
                parts += [f"![lengths]({PLOT_NAME})"] if has_plot and block.split == "train" else []
            case Document():
                parts.append(_document(block, tokenizer))
    return "\n\n".join(parts) + "\n"


def _bullets(block: Bullets) -> list[str]:
    lines = []
    for number, item in enumerate(block.items):
        lines.append(f"- {item}")
        lines += [f"  - `{detail}`" for detail in block.details.get(number, [])]
    return lines


def _table(block: Table) -> list[str]:
    num_text = block.num_text_columns
    rule = "|" + "---|" * num_text + "---:|" * (len(block.header) - num_text)
    return [_row(block.header), rule, *map(_row, block.rows)]


def _row(cells: list[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _document(block: Document, tokenizer: Tokenizer) -> str:
    example = block.example
    text = render_document(example.token_ids, example.role_ids, tokenizer, plain=True)
    num_cut = example.num_tokens - len(example.token_ids)
    cut = f" ({num_cut} more tokens)" if num_cut else ""
    fence = fence_of(text)
    return f"{example.dataset}, {example.num_tokens} tokens:\n\n{fence}\n{text}{cut}\n{fence}"


def fence_of(text: str) -> str:
    """Return a fence for a Markdown code block that contains `text`: more tildes than any run of tildes in it.

    No line of the text can then close the block.
    """
    return "~" * max(4, 1 + max(map(len, re.findall("~+", text)), default=0))
