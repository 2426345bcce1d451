"""The sandbox in which chat templates run, set up as `transformers` sets it up.

Blocks are trimmed, `tojson` does not escape HTML, `raise_exception`, `strftime_now`, `{% generation %}`, `break` and
`continue` exist, and a namespace takes no attribute that begins with an underscore. Two things differ: `strftime_now`
formats a fixed date, so that the same build writes the same bytes tomorrow, and powers (`**`) are refused, because a
single one may compute for hours and no signal interrupts it.

Source: huggingface/transformers v5.24.0 src/transformers/utils/chat_template_utils.py.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace


class Generation(Extension):
    """Jinja extension for `{% generation %}...{% endgeneration %}`, which marks the text that the assistant writes."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the marks into a Jinja call block, so that variables inside have the same scope as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return self.environment.mark(caller())  # type: ignore[attr-defined]


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The sandboxed Jinja environment of chat templates, with the settings and functions of transformers."""

    intercepted_binops = frozenset({"**"})

    def __init__(self, date: str) -> None:
        """Set up the environment. `date` (YYYY-MM-DD) is the date that the template's `strftime_now` formats."""
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        self.filters["tojson"] = to_json
        now = datetime.strptime(date, "%Y-%m-%d")
        self.globals |= {
            "raise_exception": _refuse,
            "strftime_now": now.strftime,
            "dict": _TemplateDict(),
            "namespace": _TemplateNamespace,
        }

    def mark(self, text: str) -> str:
        """Return the text of a `{% generation %}` block. TracingEnvironment overrides this to mark the text."""
        return text

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a binary operator for Jinja's sandbox. Raises SecurityError for powers (`**`)."""
        if operator == "**":
            raise SecurityError("powers (**) are not allowed in a chat template")
        return super().call_binop(context, operator, left, right)


def to_json(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON: the filter `tojson` of templates, with the parameter names that templates use."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(str(message))


class _TemplateDict:
    """The function `dict` of templates. It hides the attributes of Python's type."""

    def __call__(self, *items: Any, **keywords: Any) -> dict[Any, Any]:
        return dict(*items, **keywords)

    def fromkeys(self, *items: Any) -> dict[Any, Any]:
        """Return what Python's `dict.fromkeys` returns for the arguments."""
        return dict.fromkeys(*items)


class _TemplateNamespace(Namespace):
    """The function `namespace` of templates. Raises SecurityError for attributes that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `namespace(self=...)` works
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        Namespace.__setitem__(self, name, value)


def _check_attribute(name: str) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no attribute that begins with an underscore, such as {name!r}")
