"""A run of rendered text with one owner and one origin."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pretokenizer.template.expression import Expression, Messages

NO_MESSAGE = -1
"""Owner of text that belongs to no message: the tools, and what precedes the first message."""


class Fragment(NamedTuple):
    """Consecutive characters of one owner and one origin."""

    text: str
    message: int
    """Number of the message that the text belongs to, or NO_MESSAGE."""
    is_data: bool
    """Whether the text comes from a message or a tool, and not from the template itself."""
    is_marked: bool = False
    """Whether the text stands inside `{% generation %}`."""
    expression: Expression | None = None
    """For data: how it follows from the messages, if a recording can tell."""


def text_of(fragments: Iterable[Fragment]) -> str:
    """Return the joined text."""
    return "".join([fragment.text for fragment in fragments])


def data_of(fragments: Iterable[Fragment], message: int) -> list[Fragment]:
    """Return the data of one message."""
    return [fragment for fragment in fragments if fragment.is_data and fragment.message == message]


Outline = Sequence[str | Expression]
"""Text with expressions in the places of data that other messages replace."""


def fill(outline: Outline, messages: Messages) -> str:
    """Return the text of an outline for these messages."""
    return "".join([item if isinstance(item, str) else item.compute(messages) for item in outline])


def differing(some: Iterable[Fragment], others: Iterable[Fragment]) -> tuple[Outline, Outline]:
    """Return two recorded texts without what they share at their begins and ends; both empty if they always agree."""
    a, b = _outline(some), _outline(others)
    keys_a, keys_b = ([item if isinstance(item, str) else item.key for item in own] for own in (a, b))
    shortest = min(len(a), len(b))
    begin = next((i for i in range(shortest) if keys_a[i] != keys_b[i]), shortest)
    end = next((i for i in range(shortest - begin) if keys_a[-1 - i] != keys_b[-1 - i]), shortest - begin)
    return a[begin : len(a) - end], b[begin : len(b) - end]


def _outline(fragments: Iterable[Fragment]) -> list[str | Expression]:
    """Return fixed text, joined, and expressions by turns."""
    outline: list[str | Expression] = [""]
    for fragment in fragments:
        if fragment.expression is not None:
            outline += [fragment.expression, ""]
        else:
            outline[-1] = f"{outline[-1]}{fragment.text}"
    return outline
