"""Two hundred texts for comparing the tokenizers of two folders."""

from __future__ import annotations

import random
from collections.abc import Sequence

FRAGMENTS = [" ", "  ", "   ", "\n", "\t", "a", "the", "dog", "é", "ß", "日", "🎉", "=", "--", "_", "0", "12", "\u2581",
             "...", "\0", "<0x0A>", "{", "x" * 9, "e\u0301", "\u00a0", "ﬁ", "\u200b"]  # fmt: skip


def texts_with(tokens: Sequence[str], count: int = 200) -> list[str]:
    """Return texts of spaces, words, emoji, NUL and `tokens` spelled with and without spaces around them."""
    draw = random.Random(7)
    around = [(before, after) for before in "a " for after in ("", " b")]
    fixed = ["", " ", "a b", *(f"{before}{token}{after}" for token in tokens for before, after in around)]
    made = ("".join(draw.choice([*FRAGMENTS, *tokens]) for _ in range(draw.randint(1, 30))) for _ in range(count))
    return [*fixed, *made][:count]
