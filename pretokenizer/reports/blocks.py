"""The blocks of a report, such as headings and tables, which stats.md and stats.html render in their own ways."""

from dataclasses import dataclass, field

from pretokenizer.figures.examples import Example


@dataclass(frozen=True)
class Heading:
    """A heading of the report; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text in which backticks mark code."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of items, each of which may have subordinate items."""

    items: list[str]
    details: dict[int, list[str]] = field(default_factory=dict)
    """Index of an item -> its subordinate items, shown as code."""


@dataclass(frozen=True)
class Table:
    """A table whose first columns hold text and whose other columns hold numbers."""

    header: list[str]
    rows: list[list[str]]
    num_text_columns: int = 1


@dataclass(frozen=True)
class Lengths:
    """The histogram of document lengths of one split. The plot shown with train has the histograms of all splits."""

    split: str
    lines: list[str]
    """The histogram as text, one line for each range."""


@dataclass(frozen=True)
class Document:
    """A sample document of the training data, shown with the role of each token."""

    example: Example


Block = Heading | Paragraph | Bullets | Table | Lengths | Document
