"""`stats.md`, the report for people: figures per split, lengths, packing, epochs, documents as the trainer sees them."""

from pathlib import Path
from typing import Any

from pretokenizer.chat_format import ChatFormat
from pretokenizer.plan import Plan
from pretokenizer.selection import Selected
from pretokenizer.stats import DatasetStats, total_stats
from pretokenizer.token_store import TokenStore
from pretokenizer.tokenizer import Tokenizer


def markdown_report(
    plan: Plan,
    final: Path,
    splits: dict[str, list[Selected]],
    stats: dict[str, list[DatasetStats]],
    reports: dict[str, Any],
    store: TokenStore,
    tokenizer: Tokenizer,
    chat_format: ChatFormat,
) -> str:
    """The whole report as Markdown."""
    lines = [f"# {final.name}", ""]
    for split, parts in stats.items():
        lines += [f"## {split}", "", *_table([*parts, total_stats(parts)]), ""]
    return "\n".join(lines)


def _table(stats: list[DatasetStats]) -> list[str]:
    rows = ["| data set | samples | accepted | tokens |", "|---|---:|---:|---:|"]
    return rows + [f"| {s.name} | {s.samples:,} | {s.accepted:,} | {s.tokens:,} |" for s in stats]
