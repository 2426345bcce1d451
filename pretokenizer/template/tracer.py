"""The state of one rendering of a chat template: the message that the template is at, and the recording."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pretokenizer.template.expression import Expression, Recording


class Part(NamedTuple):
    """Consecutive characters of a traced text that share one origin."""

    text: str
    message: int | None
    """Number of the message whose data the text is, -1 for the tools; None for the template's own text."""
    expression: Expression | None = None
    """The expression that computes the text from the message; None where no recording can reproduce it."""
    is_marked: bool = False
    """Whether the text stands inside a `{% generation %}` block."""


class TracedMessage(dict[str, Any]):
    """A message dict as a template reads it, with its number. The sandbox hides `_number` for its underscore."""

    __slots__ = ("_number",)

    def __init__(self, items: Mapping[str, Any], number: int) -> None:
        super().__init__(items)
        self._number = number


class Tracer:
    """Knows which message a running template is at. The compiled template calls it (tracing_environment.py)."""

    def __init__(self, recording: Recording | None = None) -> None:
        self.recording = recording
        self.message: int | None = None
        """Number of the message that the template is at; None where it is at no message."""
        self._is_in_loop = False
        self._outer: list[tuple[int | None, bool]] = []

    def begin_loop(self) -> None:
        """Remember the current message until `end_loop`."""
        self._outer.append((self.message, self._is_in_loop))

    def enter(self, item: object) -> None:
        """Make the item of a loop the current message, if it is a message."""
        if isinstance(item, TracedMessage):
            self.message, self._is_in_loop = item._number, True

    def assign(self, value: object) -> None:
        """Make `value` of `{% set m = value %}` the current message, if it is a message.

        Inside a loop over messages, such an assignment only looks ahead, and the current message stays.
        """
        if isinstance(value, TracedMessage) and not self._is_in_loop:
            self.message = value._number

    def end_loop(self) -> None:
        """Return to the message of the enclosing loop over messages, or to none without such a loop."""
        self.message, self._is_in_loop = self._outer.pop()
        if not self._is_in_loop:
            self.message = None

    def give_up_recording(self) -> None:
        """Make the recording unusable, because the template read a text in a way that no question describes."""
        if self.recording is not None:
            self.recording.is_exact = False
