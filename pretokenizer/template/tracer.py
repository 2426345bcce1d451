"""What one rendering of a chat template knows: the message that the template is at, and the recording."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pretokenizer.template.expression import Expression, Recording


class Part(NamedTuple):
    """Characters of one origin."""

    text: str
    message: int | None
    """Number of the message whose data this is, -1 for the tools; None for the template's own text."""
    expression: Expression | None = None
    """How the text follows from the message; None where no recording can tell."""
    is_marked: bool = False
    """Whether the text stands inside `{% generation %}`."""


class TracedMessage(dict[str, Any]):
    """A message as a template sees it. The sandbox hides attributes that begin with an underscore."""

    __slots__ = ("_number",)

    def __init__(self, items: Mapping[str, Any], number: int) -> None:
        super().__init__(items)
        self._number = number


class Tracer:
    """Follows a template through the messages; the compiled template calls its methods (tracing_environment.py)."""

    def __init__(self, recording: Recording | None = None) -> None:
        self.recording = recording
        self.message: int | None = None
        """Number of the message that the template is at, None where it is at none."""
        self._is_in_loop = False
        self._outer: list[tuple[int | None, bool]] = []

    def begin_loop(self) -> None:
        """Remember the message before a loop."""
        self._outer.append((self.message, self._is_in_loop))

    def enter(self, item: object) -> None:
        """Move to a loop's item if it is a message."""
        if isinstance(item, TracedMessage):
            self.message, self._is_in_loop = item._number, True

    def assign(self, value: object) -> None:
        """Move to the message of `{% set m = messages[i] %}`; inside a loop over messages that only looks ahead."""
        if isinstance(value, TracedMessage) and not self._is_in_loop:
            self.message = value._number

    def end_loop(self) -> None:
        """Return to the message of the outer loop, or to none."""
        self.message, self._is_in_loop = self._outer.pop()
        if not self._is_in_loop:
            self.message = None

    def give_up_recording(self) -> None:
        """Take note that the template read a text in a way that no question describes."""
        if self.recording is not None:
            self.recording.is_exact = False
