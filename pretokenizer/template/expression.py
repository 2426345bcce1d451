"""Questions that a chat template asks about message texts, and values that it derives from them.

A recording keeps both while a template renders one conversation. A later conversation for which every question has the
same answer gets the same text around its own values, so the recording renders it without running the template.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

Messages = Sequence[Mapping[str, Any]]
"""Messages as a template sees them, for example `{"role": "user", "content": "Hi"}`."""


class Expression:
    """A text that follows from one message: a field of it, or the result of string methods applied to the field."""

    __slots__ = ("compute", "key")

    def __init__(self, key: Hashable, compute: Callable[[Messages], Any]) -> None:
        self.key = key
        """Two expressions with equal keys compute the same text."""
        self.compute = compute

    def apply(self, method: str, arguments: tuple[Any, ...], index: int | None = None) -> "Expression":
        """Return the expression for the result of a string method on this one, or for item `index` of that result."""
        parent, function = self.compute, STRING_METHODS[method]
        if index is None:
            return Expression((self.key, method, arguments), lambda messages: function(parent(messages), *arguments))
        return Expression(
            (self.key, method, arguments, index), lambda messages: function(parent(messages), *arguments)[index]
        )


def field_of(number: int, name: str) -> Expression:
    """Return the expression for the field `name` of message `number`, counted from 0."""
    return Expression((number, name), lambda messages: messages[number][name])


def _cut(text: str, begin: int | None, end: int | None) -> str:
    return text[begin:end]


def _within(text: str, other: str) -> bool:
    return text in other


STRING_METHODS: dict[str, Callable[..., Any]] = {
    **{name: getattr(str, name) for name in dir(str) if callable(getattr(str, name))},
    "bool": bool,
    "cut": _cut,
    "split_count": lambda text, method, *arguments: len(getattr(text, method)(*arguments)),
    "within": _within,
}
"""Functions of a text by name: the methods of str and a few more. Expressions call them with plain strings."""


class Question(NamedTuple):
    """A question that a template asked about a text, as a function of the messages, and its answer when recorded."""

    expression: Expression
    ask: Callable[[Messages], Hashable]
    """Returns the answer that the given messages give to the question."""
    answer: Hashable


class Recording:
    """The questions that a template asked about message texts during one rendering, in the order of asking.

    A question is a call of a string method, such as `startswith`. A conversation that gives the same answers can reuse
    the rendering.
    """

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.is_exact = True
        """False once the template read a text in a way that no question describes. The rendering is then not reused."""
        self._known: set[Hashable] = set()

    def note(self, expression: Expression, method: str, arguments: tuple[Any, ...], answer: Hashable) -> None:
        """Add the question that the string method `method` asks about an expression, with its answer.

        A question that the template asked before is not added again.
        """
        asked = expression.apply(method, arguments)
        if asked.key not in self._known:
            self._known.add(asked.key)
            self.questions.append(Question(expression, asked.compute, answer))
