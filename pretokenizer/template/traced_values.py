"""Convert values of templates between plain and traced strings: JSON-like values, printed values, filter results."""

from collections.abc import Mapping
from typing import Any

from pretokenizer.template.traced_text import TracedText, plain
from pretokenizer.template.tracer import Part, TracedMessage, Tracer


def untraced(value: Any) -> Any:
    """Return a JSON-like value with plain strings in place of traced ones."""
    if isinstance(value, TracedText):
        return plain(value)
    if isinstance(value, dict):
        return {untraced(key): untraced(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(untraced(item) for item in value)
    return value


def traced_value(value: Any, message: int, tracer: Tracer) -> Any:
    """Return a JSON-like value whose strings are traced as data of message number `message`."""
    if isinstance(value, str):
        return TracedText(value, (Part(value, message),), tracer)
    if isinstance(value, Mapping):
        return {traced_value(key, message, tracer): traced_value(item, message, tracer) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [traced_value(item, message, tracer) for item in value]
    return value


def traced(value: Any, tracer: Tracer) -> TracedText:
    """Return the traced text that a template prints for a value. A plain string counts as the template's own text."""
    if isinstance(value, TracedText):
        return value
    if type(value) is str:
        return TracedText(value, (Part(value, None),), tracer)
    return opaque(str(untraced(value)), value, tracer=tracer)


def opaque(text: str, *sources: Any, tracer: Tracer) -> TracedText:
    """Return `text`, which was made from `sources` without known origins. It is all data if any of them holds data."""
    origin = next((found for source in sources if (found := _origin(source)) is not None), None)
    if origin is not None or not isinstance(text, str) or type(text) is not str:
        tracer.give_up_recording()
    text = plain(text)
    return TracedText(text, (Part(text, origin),), tracer)


def _origin(value: Any) -> int | None:
    """Return the number of the message from which the first data in a value comes, or None without data."""
    if isinstance(value, TracedText):
        return next((part.message for part in value._parts if part.message is not None), None)
    if isinstance(value, TracedMessage):
        return value._number
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return next((found for item in value if (found := _origin(item)) is not None), None)
    return None
