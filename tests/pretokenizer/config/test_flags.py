"""Flags of a dataclass are parsed as text, and their help shows its field docstrings."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from pretokenizer.config.flags import Parser, UsageError, add_flags, field_docs
from pretokenizer.config.yaml_config import from_mapping


@dataclass(frozen=True)
class Toy:
    """Settings with one field of each type."""

    rate: float = 1e-5
    """Peak rate, at most
    100 %."""
    names: tuple[str, ...] = ("a", "b")
    """Names."""
    fused: bool = True
    mode: Literal["one", "two"] = "one"
    """How it runs."""
    count: int | None = None
    """How many."""
    extra: list[str] = field(default_factory=list)
    """More names."""


def make_parser(**options: Any) -> Parser:
    parser = Parser(prog="toy")
    add_flags(parser, Toy, **options)
    return parser


def test_only_given_flags_are_returned_and_values_stay_text() -> None:
    given = make_parser().parse(["--rate", "3e-4", "--names", "x", "y", "--extra", "--mode=two"])
    assert given == {"rate": "3e-4", "names": ["x", "y"], "extra": [], "mode": "two"}
    assert from_mapping(Toy, given, "command line") == Toy(3e-4, ("x", "y"), mode="two")


@pytest.mark.parametrize(
    ("arguments", "value"), [(["--fused"], True), (["--fused", "false"], False), (["--fused=true"], True)]
)
def test_booleans(arguments: list[str], value: bool) -> None:
    assert from_mapping(Toy, make_parser().parse(arguments), "command line").fused is value


def test_a_field_is_unset_only_where_the_parser_allows_it() -> None:
    assert make_parser(can_unset=True).parse(["--no-count"]) == {"count": None}
    with pytest.raises(UsageError, match="unknown flag --no-count"):
        make_parser().parse(["--no-count"])


def test_help_shows_docstrings_types_and_defaults() -> None:
    text = " ".join(make_parser(is_shown=lambda name: name != "extra").format_help().split())
    assert "--rate X Peak rate, at most 100 %. [1e-05]" in text
    assert "--names [X ...] Names. [a b]" in text
    assert "--fused [true|false] [True]" in text
    assert "--mode {one,two} How it runs. [one]" in text
    assert "--count N How many. " not in text and "--count N How many." in text
    assert "extra" not in text
    assert field_docs(Toy)["rate"] == "Peak rate, at most 100 %."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rat", "1"], r"unknown flag --rat \(did you mean '--rate'\?\)"),
        (["--rate"], "argument --rate: expected one argument\nusage: toy"),
        (["loose"], "unrecognized arguments: loose\nusage: toy"),
    ],
)
def test_a_bad_command_line_raises(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_parser().parse(arguments)


def test_a_command_has_flags_of_its_own() -> None:
    parser = Parser(prog="toy")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("bake").add_argument("--heat", type=int)
    commands.add_parser("cool").add_argument("--ice")
    assert parser.parse(["bake", "--heat", "200"]) == {"command": "bake", "heat": 200}
    with pytest.raises(UsageError, match="unknown flag --ice"):
        parser.parse(["bake", "--ice", "1"])
    with pytest.raises(UsageError, match="argument --heat: invalid int value: 'hot'\nusage: toy bake"):
        parser.parse(["bake", "--heat", "hot"])
