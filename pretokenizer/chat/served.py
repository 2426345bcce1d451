"""Compare the replies of a document with their prompts at inference.

A chat template may rewrite the past: drop earlier thoughts, or move the system message. The document then trains on
replies after text that is never served. A reply counts as changed in two cases: its prompt differs from the text before
it, or the template renders its message differently when the message is the last one. For example, Qwen 3 writes
`<think>` before the last reply only. The text after the message does not count, because many templates end a
conversation with one more token.

Every reply costs two renderings: its prompt, and the conversation that ends with it. The work for all replies grows
with the square of the conversation's length, so `chosen` limits it.
"""

from typing import Any, NamedTuple

from pretokenizer.template.expression import Messages, Recording
from pretokenizer.template.fragment import Fragment, Outline, differing, text_of
from pretokenizer.template.rendering import CompiledTemplate, TemplateFailureError

WORK = 3_000
"""Limit on the messages rendered to compare the replies of one conversation. If every second message is a reply, all
replies of a conversation of 75 messages are compared."""
LONG_WORK = 4
"""Limit for long conversations, as a number of renderings of the whole conversation, where it is more than WORK."""

Pairs = list[tuple[Outline, Outline]]
"""Pairs (text in the document, text at inference) of one reply. The reply changed if the texts of a pair differ."""


def chosen(starts: dict[int, int], num_messages: int) -> dict[int, int]:
    """Return the replies to compare: all of them, or evenly spaced ones if all would exceed WORK.

    `starts` maps the number of a reply's message to the place where the reply begins. The last reply is always chosen.
    """
    cost = sum(2 * number + 1 for number in starts)
    step = max(1, -(-cost // max(WORK, LONG_WORK * num_messages)))
    return dict(list(starts.items())[::-1][::step][::-1])


class Document(NamedTuple):
    """A rendered conversation, whose replies are to be compared."""

    template: CompiledTemplate
    messages: Messages
    tools: Any
    fragments: list[Fragment]
    text: str
    """The text of all fragments."""


def compare(document: Document, number: int, start: int, recording: Recording | None) -> Pairs:
    """Return the pairs (text in the document, text at inference) that differ for one reply, or [] if none differ.

    The reply is that of message `number` and begins at `document.fragments[start]`. With a recording, a pair is left
    out only if its texts are equal in all conversations that share the recording. A prompt that the template refuses
    counts as different.
    """
    try:
        if recording is not None and recording.is_exact:
            return _recorded(document, number, start, recording)
        return _plain(document, number, start)
    except TemplateFailureError:
        if recording is not None:
            recording.is_exact = False
        return [(["refused"], [])]


def _recorded(document: Document, number: int, start: int, recording: Recording) -> Pairs:
    """Return the differing pairs (document, inference) of one reply, for all conversations that share the recording.

    The first pair compares the text before the reply, the second the reply. Each side is an outline, which `fill` turns
    into the text of one conversation.
    """
    template, messages, tools, here, _ = document
    prompt = template.fragments(messages[:number], tools, True, recording)
    last = here
    if number + 1 < len(messages):
        last = template.fragments(messages[: number + 1], tools, False, recording)
    pairs = [differing(here[:start], prompt), differing(_shown(here, number), _shown(last, number))]
    return [(a, b) for a, b in pairs if a or b]


def _plain(document: Document, number: int, start: int) -> Pairs:
    """Return the pairs for this conversation alone. Plain texts are compared first, because fragments cost more."""
    template, messages, tools, here, text = document
    prompt = template.text(messages[:number], tools, True)
    if text_of(here[:start]) != prompt:
        return [(["document"], ["prompt"])]
    if number + 1 == len(messages):
        return []
    last_text = template.text(messages[: number + 1], tools)
    if text.startswith(last_text) or last_text == text_of(_until_data(here, number)) + _end(here):
        return []
    last = template.fragments(messages[: number + 1], tools)
    a, b = text_of(_shown(here, number)), text_of(_shown(last, number))
    return [] if a == b else [([a], [b])]


def _until_data(fragments: list[Fragment], number: int) -> list[Fragment]:
    """Return the fragments from the start of the document to the last one that holds data of message `number`.

    Data is text that comes from a message, and not from the template.
    """
    data = (i for i in reversed(range(len(fragments))) if fragments[i].message == number and fragments[i].is_data)
    return fragments[: next(data, -1) + 1]


def _end(fragments: list[Fragment]) -> str:
    """Return the template's text after the last data (message text) of the document, which ends its last turn."""
    data = (i for i in reversed(range(len(fragments))) if fragments[i].is_data)
    return text_of(fragments[next(data, -1) + 1 :])


def _shown(fragments: list[Fragment], number: int) -> list[Fragment]:
    """Return the fragments of message `number` from its header to its last data (text from the message itself)."""
    own = [fragment for fragment in fragments if fragment.message == number]
    last = max((i for i, fragment in enumerate(own) if fragment.is_data), default=-1)
    return own[: last + 1]
