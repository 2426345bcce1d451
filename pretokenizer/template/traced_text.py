"""Strings that know where their characters come from while a chat template works on them.

    text = traced_value("Hi ", message=1, tracer=tracer)
    ("<|user|>" + text.strip())._parts      # "<|user|>" from the template, "Hi" from message 1

A `TracedText` is a str with parts; a part's characters share one origin. Every method that returns text keeps the
origins. Every method that reveals something about the text adds a question to the recording (expression.py).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, SupportsIndex

from pretokenizer.template.expression import Expression
from pretokenizer.template.tracer import Part, Tracer


class TracedText(str):
    """A string that knows for each character whether it comes from a message (data) or from the template itself.

    The sandbox hides attributes that begin with an underscore.
    """

    __slots__ = ("_parts", "_tracer")
    _parts: tuple[Part, ...]
    _tracer: Tracer

    def __new__(cls, text: str, parts: tuple[Part, ...], tracer: Tracer) -> "TracedText":
        self = super().__new__(cls, text)
        self._parts = parts
        self._tracer = tracer
        return self

    @property
    def _has_data(self) -> bool:
        return any(part.message is not None for part in self._parts)

    @property
    def _expression(self) -> Expression | None:
        return self._parts[0].expression if len(self._parts) == 1 else None

    def _note(self, method: str, arguments: tuple[Any, ...], answer: Any) -> Any:
        """Record `answer`, which `method` revealed to the template about this text, and return it."""
        recording = self._tracer.recording
        if recording is None or not recording.is_exact or not self._has_data:
            return answer
        if self._expression is None or any(isinstance(value, TracedText) for value in arguments):
            recording.is_exact = False
        else:
            recording.note(self._expression, method, arguments, answer)
        return answer

    def _argument(self, value: Any) -> Any:
        """Return a method's argument without origins. Data in it ends the recording, which cannot describe it."""
        if isinstance(value, TracedText):
            if value._has_data:
                self._tracer.give_up_recording()
            return plain(value)
        return value

    def _cut(self, begin: int, end: int) -> "TracedText":
        """Return the characters from `begin` to `end` with their origins. Data in the text ends the recording."""
        parts, at = [], 0
        for part in self._parts:
            piece = part.text[max(0, begin - at) : max(0, end - at)]
            at += len(part.text)
            if piece:
                parts.append(Part(piece, part.message, None, part.is_marked))
        if self._has_data:
            self._tracer.give_up_recording()
        return TracedText(plain(self)[begin:end], tuple(parts), self._tracer)

    def _derive(self, begin: int, end: int, method: str, arguments: tuple[Any, ...], item: int | None = None) -> Any:
        """Return the characters from `begin` to `end`: the result of a string method, or item number `item` of it."""
        if self._expression is None:
            return self._cut(begin, end)
        text, part = plain(self)[begin:end], self._parts[0]
        derived = part._replace(text=text, expression=self._expression.apply(method, arguments, item))
        return TracedText(text, (derived,), self._tracer)

    def _change(self, text: str, method: str) -> "TracedText":
        """Return `text`, which a method such as `upper` made of this text, with this text's origins."""
        part = self._parts[0] if self._parts else Part("", None)
        if self._expression is not None:
            part = part._replace(text=text, expression=self._expression.apply(method, ()))
            return TracedText(text, (part,), self._tracer)
        if len(text) == str.__len__(self):
            parts, at = [], 0
            for part in self._parts:
                parts.append(part._replace(text=text[at : at + len(part.text)], expression=None))
                at += len(part.text)
            return TracedText(text, tuple(parts), self._tracer)
        return self._unknown(text)

    def _unknown(self, text: str) -> "TracedText":
        """Return `text`, made from this text without known origins. All of it is data if this text holds data."""
        origin = next((part.message for part in self._parts if part.message is not None), None)
        if origin is not None:
            self._tracer.give_up_recording()
        return TracedText(text, (Part(text, origin),), self._tracer)

    # Joining

    def __add__(self, other: str) -> "TracedText":
        return joined((self, other), self._tracer) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> "TracedText":
        return joined((other, self), self._tracer) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> "TracedText":
        return joined([self] * count.__index__(), self._tracer)

    __rmul__ = __mul__

    def join(self, items: Iterable[str]) -> "TracedText":
        pieces: list[str] = []
        for number, item in enumerate(items):
            if not isinstance(item, str):
                raise TypeError(f"sequence item {number}: expected str instance, {type(item).__name__} found")
            pieces += [self, item] if number else [item]
        return joined(pieces, self._tracer)

    # Cutting

    def strip(self, characters: str | None = None) -> "TracedText":
        begin = str.__len__(self) - len(plain(self).lstrip(characters))
        return self._derive(begin, begin + len(plain(self).strip(characters)), "strip", (self._argument(characters),))

    def lstrip(self, characters: str | None = None) -> "TracedText":
        length = str.__len__(self)
        begin = length - len(plain(self).lstrip(characters))
        return self._derive(begin, length, "lstrip", (self._argument(characters),))

    def rstrip(self, characters: str | None = None) -> "TracedText":
        return self._derive(0, len(plain(self).rstrip(characters)), "rstrip", (self._argument(characters),))

    def removeprefix(self, prefix: str) -> "TracedText":
        length = str.__len__(self)
        begin = length - len(plain(self).removeprefix(prefix))
        return self._derive(begin, length, "removeprefix", (self._argument(prefix),))

    def removesuffix(self, suffix: str) -> "TracedText":
        return self._derive(0, len(plain(self).removesuffix(suffix)), "removesuffix", (self._argument(suffix),))

    def __getitem__(self, key: Any) -> "TracedText":
        try:
            text = plain(self)[key]
        except IndexError:
            self._tracer.give_up_recording()  # the template gets an undefined value, which no question describes
            raise
        if isinstance(key, slice):
            begin, end, step = key.indices(str.__len__(self))
            if step == 1:
                return self._derive(begin, max(begin, end), "cut", (key.start, key.stop))
            self._tracer.give_up_recording()
            return self._unknown(text)
        begin = key.__index__()
        begin += str.__len__(self) if begin < 0 else 0
        self._note("__getitem__", (key.__index__(),), text)
        return self._derive(begin, begin + 1, "__getitem__", (key.__index__(),))

    def __iter__(self) -> Iterator["TracedText"]:
        if self._has_data:
            self._tracer.give_up_recording()
        return (self._cut(i, i + 1) for i in range(str.__len__(self)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list["TracedText"]:  # type: ignore[override]
        return self._divide("split", self._argument(sep), maxsplit.__index__())

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list["TracedText"]:  # type: ignore[override]
        return self._divide("rsplit", self._argument(sep), maxsplit.__index__())

    def _divide(self, method: str, separator: str | None, limit: int) -> list["TracedText"]:
        pieces = getattr(plain(self), method)(separator, limit)
        self._note("split_count", (method, separator, limit), len(pieces))
        found, at = [], 0
        for number, piece in enumerate(pieces):
            begin = str.index(self, piece, at)
            found.append(self._derive(begin, begin + len(piece), method, (separator, limit), number))
            at = begin + len(piece) + len(separator or "")
        return found

    def splitlines(self, keepends: bool = False) -> list["TracedText"]:  # type: ignore[override]
        whole = plain(self).splitlines(True)
        self._note("split_count", ("splitlines", keepends), len(whole))
        found, at = [], 0
        for number, (line, kept) in enumerate(zip(whole, plain(self).splitlines(keepends), strict=True)):
            found.append(self._derive(at, at + len(kept), "splitlines", (keepends,), number))
            at += len(line)
        return found

    def partition(self, sep: str) -> tuple["TracedText", "TracedText", "TracedText"]:
        return self._part_in_three("partition", sep)

    def rpartition(self, sep: str) -> tuple["TracedText", "TracedText", "TracedText"]:
        return self._part_in_three("rpartition", sep)

    def _part_in_three(self, method: str, separator: str) -> Any:
        lengths = [len(piece) for piece in getattr(plain(self), method)(separator)]
        begins = (0, lengths[0], lengths[0] + lengths[1])
        return tuple(
            self._derive(begins[i], begins[i] + lengths[i], method, (self._argument(separator),), i) for i in range(3)
        )

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> "TracedText":
        limit = count.__index__()
        if not old:
            self._tracer.give_up_recording()
            return self._unknown(plain(self).replace(old, plain(new), limit))
        pieces = [item for piece in self.split(old, limit) for item in (new, piece)]
        return joined(pieces[1:], self._tracer)

    # Reading

    def __str__(self) -> "TracedText":
        return self

    def __format__(self, specification: str) -> str:
        self._tracer.give_up_recording()
        return plain(self).__format__(specification)

    def __repr__(self) -> str:
        self._tracer.give_up_recording()
        return repr(plain(self))

    def __hash__(self) -> int:
        if self._has_data:
            self._tracer.give_up_recording()
        return str.__hash__(self)

    def __bool__(self) -> bool:
        return bool(self._note("bool", (), str.__len__(self) > 0))


def _reading(name: str) -> Callable[..., Any]:
    """Return the method `name` of str, changed to record its answer."""
    method = getattr(str, name)

    @wraps(method)
    def run(self: TracedText, *arguments: Any) -> Any:
        answer = method(self, *arguments)
        if answer is NotImplemented:
            return answer
        return self._note(name, arguments, answer)

    return run


def _changing(name: str) -> Callable[..., Any]:
    """Return the method `name` of str, changed to keep the origins of characters that it replaces."""
    method = getattr(str, name)

    @wraps(method)
    def run(self: TracedText) -> Any:
        return self._change(method(self), name)

    return run


def _other(name: str) -> Callable[..., Any]:
    """Return the method `name` of str, changed to end the recording, because the origins of its result are unknown."""
    method = getattr(str, name)

    @wraps(method)
    def run(self: TracedText, *arguments: Any, **keywords: Any) -> Any:
        self._tracer.give_up_recording()
        result = method(plain(self), *map(self._argument, arguments), **keywords)
        return self._unknown(result) if isinstance(result, str) else result

    return run


for _name in ("lower", "upper", "title", "capitalize", "casefold", "swapcase"):
    setattr(TracedText, _name, _changing(_name))
for _name in ("center", "encode", "expandtabs", "ljust", "rjust", "translate", "zfill"):
    setattr(TracedText, _name, _other(_name))
for _name in (
    *("__contains__", "__eq__", "__ge__", "__gt__", "__le__", "__len__", "__lt__", "__ne__"),
    *("count", "endswith", "find", "index", "rfind", "rindex", "startswith"),
    *(name for name in dir(str) if name.startswith("is")),
):
    setattr(TracedText, _name, _reading(_name))


def plain(text: str) -> str:
    """Return a string as a plain str, without origins."""
    return str.__str__(text)


def joined(texts: Iterable[str], tracer: Tracer) -> TracedText:
    """Return texts joined with their origins. A plain string counts as the template's own text."""
    parts: list[Part] = []
    for text in texts:
        if isinstance(text, TracedText):
            parts += text._parts
        else:
            parts.append(Part(plain(text), None))
    return TracedText("".join([part.text for part in parts]), tuple(parts), tracer)
