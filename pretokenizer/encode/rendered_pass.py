"""The fast pass for any chat format: encode a batch as one text, and find each token's role by counting bytes.

Marks (engine.py) stand for the control tokens that the format writes, and for the start of each document. Between two
marks the lengths of the tokens must add up to the length of the text (segments.py). The reference tokenizer encodes
every document where they do not.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.chat.formats import ChatFormat, ChatFormatError
from pretokenizer.chat.rendered import Kind, Rendered
from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import PROOF_INTERVAL, EncodedBatch, EngineMismatchError, notes_of
from pretokenizer.encode.engine import FastEngine
from pretokenizer.encode.hard_texts import BATTERY
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.encode.segments import segments_of
from pretokenizer.encode.token_bytes import token_bytes
from pretokenizer.encode.token_roles import Numbers, runs_of
from pretokenizer.tokenizer.base import Tokenizer

_START = ""
"""Name of the mark for the start of a document. All other marks have the names of control tokens."""
_MAX_KNOWN = 10_000
"""Maximum number of entries in the cache of the format's texts, and in the cache of layouts."""
_MAX_SPELLED = 64
"""Maximum number of control tokens that the hard texts spell, because some vocabularies reserve thousands."""


class RenderedPass:
    """The fast pass for any chat format: encodes rendered conversations with the fast engine.

    The reference tokenizer checks the pass on hard texts when it is made, and on a sample of the documents that it
    encodes.
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
        self._marked = _Marked(self._pattern, self.engine.marks)
        self._layouts: dict[int, _Layout] = {}
        self._prove_on_hard_texts()

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Encode conversations, in order.

        Raises ChatFormatError if the format cannot express a conversation, and EngineMismatchError if the ids or roles
        of a sampled document are wrong.
        """
        documents = [self._reference.render(conversation) for conversation in conversations]
        batch = self._encode(documents)
        ends = np.cumsum(batch.document_sizes)
        roles = np.repeat(batch.turn_roles, batch.turn_sizes)
        for number in range(0, len(documents), PROOF_INTERVAL):
            begin, end = ends[number] - batch.document_sizes[number], ends[number]
            straddling = batch.straddling_counts[number]
            self._compare(documents[number], batch.tokens[begin:end], roles[begin:end], straddling)
        return batch

    def _encode(self, documents: Sequence[Rendered]) -> EncodedBatch:
        flat, piece_roles = self._pieces(documents)
        encoded = list(map(str.encode, flat))
        data = b"".join(encoded)
        piece_ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(flat)))
        tokens = self.engine.encode_bytes(data)
        is_mark = tokens >= self.engine.first_mark
        marks, mark_begins = np.flatnonzero(is_mark), self.engine.find_marks(data)
        if marks.size != mark_begins.size:
            raise EngineMismatchError(data[:80].decode("utf-8", "replace"))
        segments = segments_of(self._lengths[tokens], marks, mark_begins, len(data))
        roles, straddling = segments.roles(piece_ends, piece_roles, self._format.loss == "marks")
        controls, crossing = self._count_typed("".join(flat), flat, documents)

        mark_ids = tokens[marks]
        is_start = mark_ids == self._start_id
        tokens[marks] = self._mark_ids[mark_ids - self.engine.first_mark]
        starts = marks[is_start]
        is_kept = np.ones(tokens.size, dtype=np.bool_)
        is_kept[starts] = False
        lost = np.bincount(np.searchsorted(starts, straddling, side="right") - 1, minlength=starts.size)
        sizes = np.diff(starts, append=tokens.size) - 1
        found = _Documents(tokens[is_kept], roles[is_kept], sizes, controls, lost)
        wrong = (np.cumsum(is_start) - 1)[segments.is_wrong].tolist()
        if others := sorted({*wrong, *crossing}):
            found = found.replaced(others, self._reference.encode_rendered([documents[number] for number in others]))
        runs = runs_of(found.roles, found.sizes)
        return EncodedBatch(
            found.tokens, found.sizes, *runs, found.controls, found.straddling, notes=notes_of(documents)
        )

    def _pieces(self, documents: Sequence[Rendered]) -> tuple[list[str], NDArray[np.uint8]]:
        """Return the pieces of all documents with marks in them, and the role of each piece.

        The mark of the start of a document is a piece of its own.
        """
        start, marked = self.engine.marks[_START], self._marked
        flat: list[str] = []
        roles: list[bytes] = []
        for document in documents:
            layout = self._layout_of(document.kinds)
            roles.append(layout.roles)
            texts = [start, *document.texts]
            for number in layout.fixed:
                texts[number] = marked[texts[number]]
            flat += texts
        return flat, np.frombuffer(b"".join(roles), dtype=np.uint8)

    def _layout_of(self, kinds: Sequence[Kind]) -> "_Layout":
        """Return the layout of documents whose pieces have these kinds: their roles, and which pieces the format wrote.

        It is cached by the identity of `kinds`, because documents often share this object.
        """
        found = self._layouts.get(id(kinds))
        if found is None:
            if len(self._layouts) >= _MAX_KNOWN:
                self._layouts.clear()
            fixed = [number for number, kind in enumerate(kinds, start=1) if not kind.is_data]
            found = _Layout(kinds, bytes([Role.SYSTEM, *(kind.role for kind in kinds)]), fixed)
            self._layouts[id(kinds)] = found
        return found

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
            roles = np.repeat(found.turn_roles, found.turn_sizes)
            self._compare(document, found.tokens, roles, found.straddling_counts[0])

    def _compare(
        self, document: Rendered, tokens: NDArray[np.integer], roles: NDArray[np.uint8], straddling: int
    ) -> None:
        """Raise EngineMismatchError if the reference gives the document other ids, roles or straddling tokens."""
        expected = self._reference.encode_rendered([document])
        expected_roles = np.repeat(expected.turn_roles, expected.turn_sizes)
        is_same = np.array_equal(tokens, expected.tokens) and np.array_equal(roles, expected_roles)
        if not is_same or straddling != expected.straddling_counts[0]:
            data = (text for text, kind in zip(document.texts, document.kinds, strict=True) if kind.is_data)
            raise EngineMismatchError(next(data, document.text))


class _Layout(NamedTuple):
    """Roles and fixed pieces of all documents that share one sequence of kinds."""

    kinds: Sequence[Kind]
    """The kinds. The layout keeps them alive, because the cache of layouts has their `id()` as its key."""
    roles: bytes
    """The role of the start mark and of each piece."""
    fixed: list[int]
    """Numbers of the pieces that the format wrote, from 1."""


class _Marked(dict[str, str]):
    """Cache of the format's texts: text -> the same text with marks in place of its control tokens."""

    def __init__(self, pattern: re.Pattern[str], marks: Mapping[str, str]) -> None:
        super().__init__()
        self._pattern, self._marks = pattern, marks

    def __missing__(self, text: str) -> str:
        found = self._pattern.sub(lambda match: self._marks[match.group()], text)
        if len(self) < _MAX_KNOWN:
            self[text] = found
        return found


class _Documents(NamedTuple):
    """Encoded documents: ids and roles of all tokens joined, and the size and the counts of each document."""

    tokens: NDArray[np.integer]
    roles: NDArray[np.uint8]
    sizes: Numbers
    controls: Numbers
    straddling: Numbers

    def replaced(self, numbers: Sequence[int], others: EncodedBatch) -> "_Documents":
        """Return the documents, with the i-th document of `others` in place of document `numbers[i]`."""
        tokens = np.split(self.tokens, np.cumsum(self.sizes)[:-1])
        roles = np.split(self.roles, np.cumsum(self.sizes)[:-1])
        bounds = np.cumsum(others.document_sizes)[:-1]
        other_tokens = np.split(others.tokens, bounds)
        other_roles = np.split(np.repeat(others.turn_roles, others.turn_sizes), bounds)
        controls, straddling = self.controls.copy(), self.straddling.copy()
        for place, number in enumerate(numbers):
            tokens[number], roles[number] = other_tokens[place], other_roles[place]
            controls[number] = others.control_counts[place]
            straddling[number] = others.straddling_counts[place]
        sizes = np.array([len(own) for own in tokens], dtype=np.int64)
        return _Documents(np.concatenate(tokens), np.concatenate(roles), sizes, controls, straddling)
