"""Render the blocks of a report as one self-contained HTML page, `stats.html`."""

import html
import re
from itertools import pairwise
from typing import Any

import numpy as np

from pretokenizer.chat.roles import Role
from pretokenizer.reports.blocks import Block, Bullets, Document, Heading, Lengths, Paragraph, Table
from pretokenizer.reports.render import escape_controls
from pretokenizer.tokenizer.base import Tokenizer

_STYLE = """
:root {
  color-scheme: light dark; --page: #fff; --text: #1c2430; --code: #f5f7fa; --line: #d5dbe3; --loss: #e3f3e6;
  --system: #7b3fa0; --user: #0b6b8a; --assistant: #176a2d; --context: #855d00; --assistant_no_loss: #b3261e;
  --tool: #2f55c7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181e; --text: #e2e6ec; --code: #1d232b; --line: #39424e; --loss: #1c3a25;
    --system: #cf9cf0; --user: #6cc7e6; --assistant: #86dc9b; --context: #e0b354; --assistant_no_loss: #ff9a92;
    --tool: #9db8ff;
  }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 60rem; }
body { margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
code, pre { font-family: ui-monospace, monospace; font-size: 0.87em; }
pre { background: var(--code); padding: 0.7rem; white-space: pre-wrap; border-radius: 4px; }
.scroll { overflow-x: auto; } svg { max-width: 100%; height: auto; background: #fff; }
table { border-collapse: collapse; margin: 0.5rem 0; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
.loss { background: var(--loss); text-decoration: underline; text-decoration-thickness: 1px; }
.loss { text-underline-offset: 3px; }
"""


def to_html(blocks: list[Block], tokenizer: Tokenizer, svg: str = "") -> str:
    """Return the blocks as an HTML page. `svg` is the plot of document lengths, or "" if none was drawn."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    body = "\n".join(filter(None, (_block(block, tokenizer, svg) for block in blocks)))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _block(block: Block, tokenizer: Tokenizer, svg: str) -> str:
    match block:
        case Heading():
            legend = _legend() if block.text == "Documents" else ""
            return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>{legend}"
        case Paragraph():
            return f"<p>{_inline(block.text)}</p>"
        case Bullets():
            return _bullets(block)
        case Table():
            return _table(block)
        case Lengths():
            lines = html.escape("\n".join(block.lines))
            picture = svg[svg.find("<svg") :] if svg else f"<pre>{lines}</pre>"
            return f"<p>Tokens per document:</p>\n{picture}" if block.split == "train" or not svg else ""
        case Document():
            example = block.example
            num_cut = example.num_tokens - len(example.token_ids)
            cut = f" ({num_cut:,} more tokens)" if num_cut else ""
            text = render_html(example.token_ids, example.role_ids, tokenizer)
            return f"<p>{html.escape(example.dataset)}, {example.num_tokens:,} tokens:</p>\n<pre>{text}{cut}</pre>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _bullets(block: Bullets) -> str:
    items = []
    for number, item in enumerate(block.items):
        details = "".join(f"<li><code>{html.escape(detail)}</code></li>" for detail in block.details.get(number, []))
        items.append(f"<li>{_inline(item)}{f'<ul>{details}</ul>' if details else ''}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _table(block: Table) -> str:
    def row(cells: list[str], tag: str) -> str:
        kinds = [' class="text"' if i < block.num_text_columns else "" for i in range(len(cells))]
        joined = "".join(f"<{tag}{kind}>{_inline(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{joined}</tr>"

    rows = "".join(row(cells, "td") for cells in block.rows)
    return f'<div class="scroll"><table><thead>{row(block.header, "th")}</thead><tbody>{rows}</tbody></table></div>'


def _legend() -> str:
    names = (f'<span style="color:var(--{role.name.lower()})">{role.name.lower()}</span>' for role in Role)
    return f'<p>Roles: {", ".join(names)}. Tokens with loss are <span class="loss">underlined</span>.</p>'


def render_html(ids: Any, roles: Any, tokenizer: Tokenizer) -> str:
    """Return the text of a document with N tokens as HTML, coloured by role. `ids` and `roles` have shape (N,)."""
    pieces = []
    bounds = [0, *(np.flatnonzero(np.diff(roles)) + 1).tolist(), len(roles)] if len(roles) else [0]
    for begin, end in pairwise(bounds):
        role = Role(int(roles[begin]))
        text = html.escape(escape_controls(tokenizer.decode(ids[begin:end].tolist())))
        kind, name = ' class="loss"' if role.gets_loss else "", role.name.lower()
        pieces.append(f'<span{kind} style="color:var(--{name})" title="{name}">{text}</span>')
    return "".join(pieces)
