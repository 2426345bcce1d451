"""A run of rendered text with one owner and one origin."""

from collections.abc import Iterable
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


def fill(fragments: Iterable[Fragment], messages: Messages) -> str:
    """Return the text of recorded fragments with other messages' data."""
    return "".join([f.expression.compute(messages) if f.expression is not None else f.text for f in fragments])


def are_alike(some: Iterable[Fragment], others: Iterable[Fragment]) -> bool:
    """Return whether two recorded texts are equal whatever the messages' data is."""
    return _outline(some) == _outline(others)


def _outline(fragments: Iterable[Fragment]) -> list[object]:
    """Return template text, joined, and the keys of expressions."""
    outline: list[object] = [""]
    for fragment in fragments:
        if fragment.expression is not None:
            outline += [fragment.expression.key, ""]
        else:
            outline[-1] = f"{outline[-1]}{fragment.text}"
    return outline
