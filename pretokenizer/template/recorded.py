"""Recorded renderings, which are reused for other conversations without running the template.

Conversations of one shape (the same roles and fields) differ in their texts only. A template that asks the same
questions about those texts and gets the same answers prints the same fragments, filled with other contents. So the
store is a tree of questions for each shape; its leaves are finished renderings.

    for a template with `{% if '</think>' in m.content %}`:   shape (user, assistant)
                                                              └ is '</think>' in message 1?  no -> A    yes -> B
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from pretokenizer.template.expression import Messages, Recording

T = TypeVar("T")
MAX_NODES = 50_000
"""Maximum number of nodes in all trees of a template, about 50 MB."""
_TRIAL = 2_000
"""Number of failed look-ups after which a store stops growing, unless more look-ups succeed than fail."""


class _Node(Generic[T]):
    """A node of a tree: a question with one child for each answer, or a leaf with a finished rendering."""

    __slots__ = ("answers", "ask", "found")

    def __init__(self) -> None:
        self.ask: Callable[[Messages], Hashable] | None = None
        self.answers: dict[Hashable, _Node[T]] = {}
        self.found: T | None = None


class RecordedRenderings(Generic[T]):
    """The recorded renderings of one template, as one tree of questions for each shape of conversation."""

    def __init__(self) -> None:
        self._roots: dict[Hashable, _Node[T]] = {}
        self._num_nodes = self._hits = self._misses = 0

    def find(self, shape: Hashable, messages: Messages) -> T | None:
        """Return the rendering that was recorded for this shape and for the answers that `messages` give, or None.

        The answers are those to the questions that the template asked about the texts of the messages.
        """
        node = self._roots.get(shape)
        try:
            while node is not None and node.ask is not None:
                node = node.answers.get(node.ask(messages))
        except (LookupError, ValueError):  # a question without an answer, such as the first character of ""
            node = None
        if node is None or node.found is None:
            self._misses += 1
            return None
        self._hits += 1
        return node.found

    @property
    def is_growing(self) -> bool:
        """Return whether recording one more rendering is worth its time and memory."""
        return self._num_nodes < MAX_NODES and (self._misses < _TRIAL or self._hits > self._misses)

    def add(self, shape: Hashable, recording: Recording, rendering: T) -> None:
        """Store a rendering under the conversation's shape and the answers in `recording`."""
        node = self._node(self._roots, shape)
        for question in recording.questions:
            node.ask = question.ask
            node = self._node(node.answers, question.answer)
        node.found = rendering

    def _node(self, nodes: dict[Hashable, _Node[T]], key: Hashable) -> _Node[T]:
        if key not in nodes:
            nodes[key] = _Node()
            self._num_nodes += 1
        return nodes[key]
