"""The fast pass for any chat format: encode a batch as one text, and find each token's role by counting bytes.

Marks (engine.py) stand for the control tokens that the format writes, and for the start of each document. The lengths
of the tokens before a token give its first byte, and the byte gives its role. Between two marks the lengths of the
tokens must add up to the length of the text. The reference tokenizer encodes every document where they do not.
"""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.chat.formats import ChatFormat, ChatFormatError
from pretokenizer.chat.rendered import Rendered
from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import PROOF_INTERVAL, EncodedBatch, EngineMismatchError, notes_of
from pretokenizer.encode.engine import FastEngine
from pretokenizer.encode.hard_texts import BATTERY
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.encode.token_bytes import token_bytes
from pretokenizer.encode.token_roles import Numbers, runs_of, token_roles
from pretokenizer.tokenizer.base import Tokenizer

_START = ""
"""Name for the start of a document, beside the control tokens that marks stand for."""
_MAX_KNOWN = 10_000
"""Most texts of the format that are cached with their marks."""
_MAX_SPELLED = 64
"""Most control tokens that are checked when spelled in a message; some vocabularies reserve thousands."""


class RenderedPass:
    """Encodes any chat format with the fast engine.

    The reference tokenizer checks it on hard texts when it is made, and on a sample of the documents that it encodes.
    """

    def __init__(self, tokenizer: Tokenizer, chat_format: ChatFormat, reference: ReferencePass) -> None:
        """Load the engine and check it on hard texts.

        Raises EngineError, ImportError without gigatoken, EngineMismatchError if the engine fails on a hard text, and
        gigatoken's own errors for a vocabulary that it cannot load.
        """
        self._reference, self._format, self._pattern = reference, chat_format, tokenizer.typed_pattern
        self._control_tokens = tokenizer.control_tokens
        names = [*self._control_tokens, _START]
        self.engine = FastEngine(tokenizer, names, reference.encode_special_in_text)
        self.name = self.engine.name
        first = self.engine.first_mark
        marks = {mark: first + number for number, mark in enumerate(self.engine.marks.values())}
        self._start_id = first + len(names) - 1
        self._lengths = token_bytes(tokenizer, marks)
        self._mark_ids = np.array([*self._control_tokens.values(), 0], dtype=np.uint32)
        self._marked: dict[str, str] = {}
        self._prove_on_hard_texts()

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Encode conversations, in order.

        Raises ChatFormatError for a conversation that the format cannot express, and EngineMismatchError if a sampled
        document shows that the engine is wrong.
        """
        documents = [self._reference.render(conversation) for conversation in conversations]
        batch = self._encode(documents)
        ends = np.cumsum(batch.document_sizes)
        roles = np.repeat(batch.turn_roles, batch.turn_sizes)
        for number in range(0, len(documents), PROOF_INTERVAL):
            begin, end = ends[number] - batch.document_sizes[number], ends[number]
            self._compare(documents[number], batch.tokens[begin:end], roles[begin:end])
        return batch

    def _encode(self, documents: Sequence[Rendered]) -> EncodedBatch:
        start, marked = self.engine.marks[_START], self._with_marks
        flat: list[str] = []
        piece_roles: list[int] = []
        for document in documents:
            flat.append(start)
            piece_roles.append(Role.SYSTEM)
            for text, (role, is_data) in zip(document.texts, document.kinds, strict=True):
                flat.append(text if is_data else marked(text))
                piece_roles.append(role)
        text = "".join(flat)
        data = text.encode("utf-8")
        sizes = map(len, flat) if len(data) == len(text) else map(_num_bytes, flat)
        piece_ends = np.cumsum(np.fromiter(sizes, dtype=np.int64, count=len(flat)))
        tokens = self.engine.encode_bytes(data)
        begins, ends, wrong = self._places(tokens, data)
        touching = self._format.loss == "marks"
        roles = token_roles(begins, ends, piece_ends, np.array(piece_roles, dtype=np.uint8), touching)
        controls, crossing = self._count_typed(text, flat, documents)

        is_start = tokens == self._start_id
        starts = np.flatnonzero(is_start)
        is_mark = tokens >= self.engine.first_mark
        tokens[is_mark] = self._mark_ids[tokens[is_mark] - self.engine.first_mark]
        sizes_of = np.diff(starts, append=tokens.size) - 1
        found = _Documents(tokens[~is_start], roles[~is_start], sizes_of, controls)
        if others := sorted({*wrong, *crossing}):
            found = found.replaced(others, self._reference.encode_rendered([documents[number] for number in others]))
        return EncodedBatch(
            found.tokens, found.sizes, *runs_of(found.roles, found.sizes), found.controls, notes=notes_of(documents)
        )

    def _with_marks(self, text: str) -> str:
        """Return a text of the format with marks in place of its control tokens."""
        found = self._marked.get(text)
        if found is None:
            found = self._pattern.sub(lambda match: self.engine.marks[match.group()], text)
            if len(self._marked) < _MAX_KNOWN:
                self._marked[text] = found
        return found

    def _places(self, tokens: NDArray[np.uint32], data: bytes) -> tuple[Numbers, Numbers, list[int]]:
        """Return where each token lies in `data`, the text in UTF-8: (first bytes, end bytes, documents to redo).

        The lengths of a document's tokens must add up to its text. The reference tokenizer must redo the documents
        where they do not. Raises EngineMismatchError if the engine lost a mark.
        """
        begins_of_marks = self.engine.find_marks(data)
        at = np.flatnonzero(tokens >= self.engine.first_mark)
        if at.size != begins_of_marks.size:
            raise EngineMismatchError(data[:80].decode("utf-8", "replace"))
        lengths = self._lengths[tokens]
        bounds = np.column_stack([begins_of_marks, begins_of_marks + lengths[at]])
        before = np.append(0, np.cumsum(lengths))
        spoken = before[np.append(at[1:], tokens.size)] - before[at + 1]
        excess = spoken - (np.append(bounds[1:, 0], len(data)) - bounds[:, 1])
        has_prefix = excess == 1  # a vocabulary's `▁` before a text that begins without a space
        lengths[at[has_prefix] + 1] -= 1
        is_wrong = (excess != 0) & ~has_prefix
        lengths[at[is_wrong]] -= excess[is_wrong]
        ends = np.cumsum(lengths)
        documents = np.cumsum(tokens[at] == self._start_id) - 1
        return ends - lengths, ends, np.unique(documents[is_wrong]).tolist()

    def _count_typed(self, text: str, flat: list[str], documents: Sequence[Rendered]) -> tuple[Numbers, set[int]]:
        """Return the number of control tokens spelled in each document's messages, and the documents to redo.

        The reference tokenizer must redo a document in which a control token crosses the border of two pieces.
        """
        controls = np.zeros(len(documents), dtype=np.int64)
        crossing: set[int] = set()
        matches = [match.span() for match in self._pattern.finditer(text)]
        if not matches:
            return controls, crossing
        is_data = [False]
        numbers = []
        for number, document in enumerate(documents):
            numbers += [number] * (1 + len(document.kinds))
            is_data += [*(kind.is_data for kind in document.kinds), False]
        ends = np.cumsum(np.fromiter(map(len, flat), dtype=np.int64, count=len(flat)))
        for begin, end in matches:
            piece = int(np.searchsorted(ends, begin, side="right"))
            if is_data[piece] and end <= ends[piece]:
                controls[numbers[piece]] += 1
            elif not self._reference.encode_special_in_text:
                crossing.add(numbers[piece])
        return controls, crossing

    def _prove_on_hard_texts(self) -> None:
        """Compare conversations of hard texts and of spelled control tokens with the reference tokenizer's encoding."""
        texts = [*BATTERY, *(f"a{token} {token}b" for token in list(self._control_tokens)[:_MAX_SPELLED])]
        documents = []
        for question, answer in zip(texts, [*texts[7:], *texts[:7]], strict=True):
            with contextlib.suppress(ChatFormatError):  # templates may refuse an empty message, for example
                documents.append(self._format.render(Conversation(pair(question, answer))))
        for document in documents:
            found = self._encode([document])
            self._compare(document, found.tokens, np.repeat(found.turn_roles, found.turn_sizes))

    def _compare(self, document: Rendered, tokens: NDArray[np.integer], roles: NDArray[np.uint8]) -> None:
        expected = self._reference.encode_rendered([document])
        expected_roles = np.repeat(expected.turn_roles, expected.turn_sizes)
        if not np.array_equal(tokens, expected.tokens) or not np.array_equal(roles, expected_roles):
            data = (text for text, kind in zip(document.texts, document.kinds, strict=True) if kind.is_data)
            raise EngineMismatchError(next(data, document.text))


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


class _Documents(NamedTuple):
    """Encoded documents: ids and roles of all tokens joined, and the size and control-token count of each document."""

    tokens: NDArray[np.integer]
    roles: NDArray[np.uint8]
    sizes: Numbers
    controls: Numbers

    def replaced(self, numbers: Sequence[int], others: EncodedBatch) -> "_Documents":
        """Return the documents, with the i-th document of `others` in place of document `numbers[i]`."""
        tokens = np.split(self.tokens, np.cumsum(self.sizes)[:-1])
        roles = np.split(self.roles, np.cumsum(self.sizes)[:-1])
        bounds = np.cumsum(others.document_sizes)[:-1]
        other_tokens = np.split(others.tokens, bounds)
        other_roles = np.split(np.repeat(others.turn_roles, others.turn_sizes), bounds)
        controls = self.controls.copy()
        for place, number in enumerate(numbers):
            tokens[number], roles[number] = other_tokens[place], other_roles[place]
            controls[number] = others.control_counts[place]
        sizes = np.array([len(own) for own in tokens], dtype=np.int64)
        return _Documents(np.concatenate(tokens), np.concatenate(roles), sizes, controls)
