"""The sandboxed Jinja environment in which the strings of a chat template keep their origins (traced_text.py).

It runs the same templates with the same results. It replaces the places where plain Jinja would lose origins: `~`,
`in`, `%`, `"...".format`, `"...".join`, filters, and the printing of a value. The compiled template also tells the
tracer which message a loop is at.
"""

import re
import types
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import make_attrgetter
from jinja2.sandbox import SandboxedFormatter
from jinja2.tests import test_sequence
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from pretokenizer.template.environment import ChatEnvironment, to_json
from pretokenizer.template.traced_text import TracedText, joined, plain
from pretokenizer.template.traced_values import opaque, traced, untraced
from pretokenizer.template.tracer import Tracer

_KEEPING = """attr batch count d default dictsort first groupby items last length list map max min random reject
    rejectattr select selectattr slice sort sum unique"""
"""Filters that stay Jinja's, because they only choose among values and read texts through the texts' methods."""
_DIRECTIVE = re.compile(r"%(?:\((\w+)\))?([#0\- +]*\d*(?:\.\d+)?)([a-zA-Z%])")


class TracingCodeGenerator(CodeGenerator):
    """Compiles `a ~ b` and `a in b` of a template to calls of TracingEnvironment, so that texts keep their origins."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        """Compile `a ~ b` to `environment.concatenate((a, b))`."""
        self.write("environment.concatenate((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        """Compile `a in b` and `a not in b` to `environment.contains(a, b)`.

        Other comparisons stay Jinja's, and so does a constant `a`, because only `b` can be traced then.
        """
        is_constant = isinstance(node.expr, nodes.Const)
        if is_constant or len(node.ops) != 1 or node.ops[0].op not in ("in", "notin"):
            super().visit_Compare(node, frame)
            return
        self.write("(not environment.contains(" if node.ops[0].op == "notin" else "(environment.contains(")
        self.visit(node.expr, frame)
        self.write(", ")
        self.visit(node.ops[0].expr, frame)
        self.write("))")


class _LoopReporter(NodeTransformer):
    """Adds calls to a template's loops and assignments that tell the tracer which message the template is at."""

    def visit_For(self, node: nodes.For) -> list[nodes.Node]:  # noqa: N802
        """Add calls that report the beginning of a loop, each of its items if it prints any text, and its end."""
        self.generic_visit(node)
        is_printing = any(node.find_all((nodes.Output, nodes.CallBlock, nodes.FilterBlock)))
        if isinstance(node.target, nodes.Name) and is_printing:
            node.body.insert(0, _call("enter_item", node.target.name, node.lineno))
        return [_call("begin_loop", None, node.lineno), node, _call("end_loop", None, node.lineno)]

    def visit_Assign(self, node: nodes.Assign) -> list[nodes.Node]:  # noqa: N802
        """Add a call that reports the value of `{% set name = value %}`."""
        if isinstance(node.target, nodes.Name):
            return [node, _call("assign_value", node.target.name, node.lineno)]
        return [node]


def _call(method: str, name: str | None, line: int) -> nodes.Node:
    arguments = [nodes.Name(name, "load")] if name else []
    call = nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None)
    return nodes.ExprStmt(call).set_lineno(line)


class TracingEnvironment(ChatEnvironment):
    """The environment of chat templates in which texts keep their origins. Every rendering sets its own `tracer`."""

    code_generator_class = TracingCodeGenerator
    intercepted_binops = frozenset({"**", "%"})

    def __init__(self, date: str) -> None:
        super().__init__(date)
        self.tracer = Tracer()
        self.finalize = self._printed
        for name, function in self.filters.items():
            if name not in _KEEPING.split():
                self.filters[name] = self._opaque(function)
        self.filters |= {
            "capitalize": lambda value: self._text(value).capitalize(),
            "join": self._join,
            "lower": lambda value: self._text(value).lower(),
            "replace": lambda s, old, new, count=None: self._text(s).replace(
                self._text(old), self._text(new), -1 if count is None else count
            ),
            "string": self._text,
            "tojson": self._opaque(to_json),
            "trim": lambda value, chars=None: self._text(value).strip(chars),
            "upper": lambda value: self._text(value).upper(),
        }
        self.tests["in"] = self.contains
        self.tests["sequence"] = lambda value: isinstance(value, TracedText) or test_sequence(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _LoopReporter().visit(template)
        return template

    # What the compiled template calls

    def begin_loop(self) -> None:
        """Report to the tracer that the template begins a loop."""
        self.tracer.begin_loop()

    def enter_item(self, item: object) -> None:
        """Report to the tracer that a loop reaches `item`."""
        self.tracer.enter(item)

    def assign_value(self, value: object) -> None:
        """Report to the tracer that the template assigns `value` to a variable."""
        self.tracer.assign(value)

    def end_loop(self) -> None:
        """Report to the tracer that a loop ended."""
        self.tracer.end_loop()

    def mark(self, text: str) -> TracedText:
        """Return the text of a `{% generation %}` block, with all of its parts marked."""
        whole = self._text(text)
        parts = tuple(part._replace(is_marked=True) for part in whole._parts)
        return TracedText(plain(whole), parts, self.tracer)

    def concat(self, texts: Iterable[str]) -> TracedText:
        """Join the texts that a macro or a block printed, with their origins."""
        return joined(texts, self.tracer)

    def concatenate(self, values: Iterable[Any]) -> TracedText:
        """Return the joined text of the operands of `a ~ b`. Each part keeps its origin."""
        return joined([self._text(value) for value in values], self.tracer)

    def contains(self, value: Any, container: Any) -> bool:
        """Return `value in container`, and record the answer for a traced text in a plain string."""
        if isinstance(value, TracedText) and type(container) is str:
            return bool(value._note("within", (container,), plain(value) in container))
        return value in container

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function or method for a template.

        A method of a plain string with traced arguments, such as `" ".join(texts)`, runs as that of a traced text.
        """
        if (
            isinstance(__obj, types.BuiltinMethodType)
            and type(__obj.__self__) is str
            and any(isinstance(value, (TracedText, list, tuple)) for value in args)
        ):
            __obj = getattr(traced(__obj.__self__, __self.tracer), __obj.__name__)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a binary operator for Jinja's sandbox. `pattern % values` keeps the origins of its texts."""
        if operator == "%" and isinstance(left, str):
            return self._interpolate(left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a replacement that keeps origins for `format` or `format_map` of a string; None for other methods."""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, TracedText) and type(owner) is not str:
            return super().wrap_str_format(value)
        if getattr(value, "__name__", "") not in ("format", "format_map"):
            return None

        def run(*args: Any, **kwargs: Any) -> TracedText:
            return self._format(owner, args, kwargs if value.__name__ == "format" else args[0])

        return run

    # Values as text

    def _text(self, value: Any) -> TracedText:
        if isinstance(value, Markup):  # from `safe` or `escape`, which keep no origins
            return opaque(str(value), self.tracer.message, tracer=self.tracer)
        return traced(value, self.tracer)

    def _printed(self, value: Any) -> Any:
        """Return the text that `{{ value }}` prints."""
        return value if type(value) in (str, TracedText) else self._text(value)

    def _opaque(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a filter so that it reads plain values. A text that it makes of data counts as data."""

        @wraps(function)  # keeps Jinja's note that the filter takes the context
        def run(*args: Any, **kwargs: Any) -> Any:
            result = function(*map(untraced, args), **untraced(kwargs))
            if type(result) is str:
                return opaque(result, args, kwargs, tracer=self.tracer)
            self.tracer.give_up_recording()
            return result

        return run

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> TracedText:
        if attribute is not None:
            value = map(make_attrgetter(self, attribute), value)
        return self._text(d).join([self._text(item) for item in value])

    def _format(self, pattern: str, args: Any, kwargs: Any) -> TracedText:
        formatter, pieces, automatic = SandboxedFormatter(self), [], 0
        for literal, name, specification, conversion in formatter.parse(plain(pattern)):
            pieces.append(self._text(literal))
            if name is None:
                continue
            if not name or name[0] in ".[":
                name, automatic = f"{automatic}{name}", automatic + 1
            found, _ = formatter.get_field(name, args, kwargs)
            if specification or conversion:
                shown = formatter.format_field(formatter.convert_field(untraced(found), conversion), specification)  # type: ignore[arg-type]
                pieces.append(opaque(shown, found, tracer=self.tracer))
            else:
                pieces.append(self._text(found))
        if isinstance(pattern, TracedText) and pattern._has_data:
            return opaque("".join(map(plain, pieces)), pattern, tracer=self.tracer)
        return joined(pieces, self.tracer)

    def _interpolate(self, pattern: str, values: Any) -> TracedText:
        text = plain(pattern) % untraced(values)
        pieces, at, number = [], 0, 0
        for match in _DIRECTIVE.finditer(plain(pattern)):
            pieces.append(self._text(plain(pattern)[at : match.start()]))
            at = match.end()
            name, flags, kind = match.groups()
            if kind == "%":
                pieces.append(self._text("%"))
                continue
            value = values[name] if name else values[number] if isinstance(values, tuple) else values
            number += 0 if name else 1
            shown = f"%{flags}{kind}" % (untraced(value),)
            is_same = kind == "s" and not flags
            pieces.append(self._text(value) if is_same else opaque(shown, value, tracer=self.tracer))
        pieces.append(self._text(plain(pattern)[at:]))
        whole = joined(pieces, self.tracer)
        is_data = isinstance(pattern, TracedText) and pattern._has_data
        return opaque(text, pattern, values, tracer=self.tracer) if is_data or plain(whole) != text else whole
