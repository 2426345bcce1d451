"""Command-line flags from the fields of a dataclass. (SHARED)

    @dataclass(frozen=True)
    class Optimizer:
        lr: float = 1e-5
        \"\"\"Peak learning rate.\"\"\"
        betas: tuple[float, ...] = (0.9, 0.999)
        \"\"\"Decay rates of the two moments.\"\"\"
        fused: bool = False
        \"\"\"Run the update in one kernel.\"\"\"

    parser = Parser(prog="train")
    add_flags(parser.add_argument_group("optimizer"), Optimizer)
    given = parser.parse(["--lr", "3e-4", "--fused", "--betas", "0.9", "0.95"])
    given == {"lr": "3e-4", "fused": True, "betas": ["0.9", "0.95"]}
    config = from_mapping(Optimizer, given, "command line")        # converts and checks the values

The docstring of a field is its help text, and --help shows its default in brackets. A flag that is not given is absent
from the result, so that a file's value or the field's default applies. Values stay text; `from_mapping` converts them.
"""

import argparse
import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from pretokenizer.config.yaml_config import ConfigError, suggest


class UsageError(ConfigError):
    """A command line that cannot be understood."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of exiting, and accepts no abbreviated flags."""

    def __init__(self, **keywords: Any) -> None:
        keywords = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **keywords}
        super().__init__(**keywords)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message and the usage line."""
        raise UsageError(f"{message}\n{self.format_usage().strip()}")

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return {flag name: value} of the flags given. A flag of `add_flags` that is not given is absent.

        Other flags that are not given have their argparse default. Raises UsageError for an unknown flag or an
        invalid command line.
        """
        known = self._known_flags(arguments)
        for word in arguments:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag != "--" and flag not in known:
                raise UsageError(f"unknown flag {flag}{suggest(flag, known)}; --help lists all flags")
        return vars(self.parse_args(list(arguments)))

    def _known_flags(self, arguments: Sequence[str]) -> list[str]:
        """Return the flags of this parser and of the sub-command that `arguments` name."""
        flags = [option for action in self._actions for option in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                command = next((action.choices[word] for word in arguments if word in action.choices), None)
                flags += command._option_string_actions if command else []
        return flags


def add_flags(
    parser: argparse._ActionsContainer,
    cls: type[Any],
    *,
    can_unset: bool = False,
    is_shown: Callable[[str], bool] = lambda name: True,
) -> None:
    """Add a flag for every field of the dataclass `cls` to a parser or to one of its groups.

    A boolean flag is given as `--x`, `--x true` or `--x false`; a list flag takes any number of values. With
    `can_unset`, `--no-x` sets a field to None. --help leaves out the fields for which `is_shown` returns false.
    """
    documented, hints = field_docs(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        text = (documented.get(field.name, "") + _default_of(field)).strip().replace("%", "%%")
        parser.add_argument(
            f"--{field.name}",
            default=argparse.SUPPRESS,
            help=text if is_shown(field.name) else argparse.SUPPRESS,
            **_options(hints[field.name]),
        )
        if can_unset:
            parser.add_argument(
                f"--no-{field.name}",
                dest=field.name,
                action="store_const",
                const=None,
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )


def field_docs(cls: type[Any]) -> dict[str, str]:
    """Return {field name: docstring} of a dataclass, each docstring joined to one line."""
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    docs = {}
    for statement, following in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
        ):
            docs[statement.target.id] = " ".join(str(typing.cast(ast.Constant, following.value).value).split())
    return docs


def _default_of(field: "dataclasses.Field[Any]") -> str:
    """Return a field's default for its help text, such as ` [42]`.

    Return "" when the field has no default, or the default is None, False or empty.
    """
    default = field.default
    if default is dataclasses.MISSING or default in (None, False, (), ""):
        return ""
    return f" [{' '.join(map(str, default)) if isinstance(default, tuple) else default}]"


def _options(hint: Any) -> dict[str, Any]:
    """Return the keyword arguments `nargs`, `const` and `metavar` of add_argument that suit a field's type `hint`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"metavar": "{" + ",".join(map(str, arguments)) + "}"}
    if origin in (tuple, list):
        return {"nargs": "*", "metavar": "X"}
    if origin in (Union, types.UnionType):
        return _options(next(argument for argument in arguments if argument is not type(None)))
    if hint is bool:
        return {"nargs": "?", "const": True, "metavar": "true|false"}
    return {"metavar": {int: "N", float: "X"}.get(hint, "TEXT")}
