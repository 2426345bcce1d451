"""Fragments: runs of rendered text, each of one message and of one origin (message data, or the template itself)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pretokenizer.template.expression import Expression, Messages

NO_MESSAGE = -1
"""Message number of text that belongs to no message: the tools, and the text before the first message."""


class Fragment(NamedTuple):
    """Consecutive characters of rendered text that belong to the same message and have the same origin."""

    text: str
    message: int
    """Number of the message that the text belongs to, or NO_MESSAGE."""
    is_data: bool
    """Whether the text comes from a message or a tool, and not from the template itself."""
    is_marked: bool = False
    """Whether the text stands inside a `{% generation %}` block."""
    expression: Expression | None = None
    """For data: the expression that computes the text from the messages; None where no recording can reproduce it."""


def text_of(fragments: Iterable[Fragment]) -> str:
    """Return the texts of fragments, joined."""
    return "".join([fragment.text for fragment in fragments])


Outline = Sequence[str | Expression]
"""A rendering as a list of fixed texts and of expressions, which stand for the data of any messages."""


def fill(outline: Outline, messages: Messages) -> str:
    """Return the text of an outline, with its expressions computed from `messages`."""
    return "".join([item if isinstance(item, str) else item.compute(messages) for item in outline])


def differing(some: Iterable[Fragment], others: Iterable[Fragment]) -> tuple[Outline, Outline]:
    """Return the outlines of two renderings without their common beginning and end.

    Both are empty if the renderings have the same text for all messages.
    """
    a, b = _outline(some), _outline(others)
    keys_a, keys_b = ([item if isinstance(item, str) else item.key for item in own] for own in (a, b))
    shortest = min(len(a), len(b))
    begin = next((i for i in range(shortest) if keys_a[i] != keys_b[i]), shortest)
    end = next((i for i in range(shortest - begin) if keys_a[-1 - i] != keys_b[-1 - i]), shortest - begin)
    return a[begin : len(a) - end], b[begin : len(b) - end]


def _outline(fragments: Iterable[Fragment]) -> list[str | Expression]:
    """Return the fragments as a list of text, expression, text and so on. Neighbouring texts are joined."""
    outline: list[str | Expression] = [""]
    for fragment in fragments:
        if fragment.expression is not None:
            outline += [fragment.expression, ""]
        else:
            outline[-1] = f"{outline[-1]}{fragment.text}"
    return outline
