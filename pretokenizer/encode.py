"""Conversations -> token ids and role ids, a batch at a time.

    encoder = Encoder(tokenizer, CHAT_FORMATS["chatml"], engine)
    batch = encoder.encode([conversation, ...])
    batch.tokens, batch.document_sizes, batch.turn_sizes, batch.turn_roles

A control token spelled inside a message (`<|im_end|>` in user text) stays text, or becomes the control token with
`special_tokens_in_text="encode"`; either way it is counted. The ids are those of the whole text. Where turns begin with
a control token, as chatml's and oasst's do, each can be encoded on its own.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat_format import ChatFormat, FramedFormat, Turn
from pretokenizer.conversation import Conversation
from pretokenizer.encoded_batch import PROOF_INTERVAL, EncodedBatch, EngineMismatchError
from pretokenizer.engine import FastEngine
from pretokenizer.roles import Role
from pretokenizer.tokenizer import Tokenizer
from pretokenizer.word_pass import WordPass


class Encoder:
    """Renders and encodes; with a fast engine in one pass over whole documents, else turn by turn."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_format: ChatFormat,
        engine: FastEngine | None = None,
        words: WordPass | None = None,
        encode_special_in_text: bool = False,
        keep_texts: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_format = chat_format
        self.encode_special_in_text = encode_special_in_text
        self.keep_texts = keep_texts
        self.words = words if not encode_special_in_text else None
        self._special = re.compile("|".join(map(re.escape, tokenizer.special_tokens)) or r"(?!)")
        self._frames: dict[tuple[str, str], tuple[list[int | str], str, str, list[int | str]]] = {}
        self._framed = _FramedPass(tokenizer, chat_format, engine) if isinstance(chat_format, FramedFormat) else None
        self.engine = engine if self._framed and self._framed.is_possible else None

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Encode documents in order. Raises EngineMismatchError when a sample proves the engine wrong."""
        if not conversations:
            return _join_documents([], None)
        if self.engine is None or self._framed is None:
            batch = self.words.encode(conversations) if self.words else self._encode_by_reference(conversations)
            return batch if self.keep_texts else batch._replace(texts=None)
        batch, odd = self._framed.encode(conversations)
        sampled = [d for d in range(0, len(conversations), PROOF_INTERVAL) if d not in odd]
        assert batch.texts is not None
        self._prove(batch, sampled)
        if odd:
            batch = _replace_documents(batch, odd, self._encode_by_reference([conversations[d] for d in odd]))
        return batch if self.keep_texts else batch._replace(texts=None)

    def _prove(self, batch: EncodedBatch, sampled: Sequence[int]) -> None:
        """Compare documents of a batch with the reference's ids."""
        assert batch.texts is not None
        ends = np.cumsum(batch.document_sizes)
        for document in sampled:
            found = batch.tokens[ends[document] - batch.document_sizes[document] : ends[document]]
            if found.tolist() != self.tokenizer.encode(batch.texts[document]):
                raise EngineMismatchError(batch.texts[document])

    def _encode_by_reference(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        documents = [self.chat_format.turns(conversation.messages) for conversation in conversations]
        pieces = [[self._pieces(turn) for turn in turns] for turns in documents]
        if isinstance(self.chat_format, FramedFormat):
            plain = [p for turns in pieces for turn in turns for p in turn if isinstance(p, str)]
            encoded = iter(self.tokenizer.encode_plain_batch(plain))
            rows = [[_assemble(turn, encoded) for turn in turns] for turns in pieces]
        else:
            rows = [self._encode_across_turns(turns) for turns in pieces]
        joined = _join_documents(rows, [[turn.role for turn in turns] for turns in documents])
        counts = [sum(len(self._special.findall(turn.text)) for turn in turns) for turns in documents]
        texts = ["".join(t.prefix + t.text + t.suffix for t in turns) for turns in documents]
        return joined._replace(control_counts=np.array(counts, dtype=np.int64), texts=texts)

    def _encode_across_turns(self, turns: list[list[int | str]]) -> list[list[int]]:
        """Ids of each turn where a turn may begin inside a text: text runs on, and a token goes to where it begins."""
        rows: list[list[int]] = [[] for _ in turns]
        run, owners = "", [(0, 0)]  # text since the last control token, and (character, turn) where turns begin in it

        def flush() -> None:
            ids, begins = self.tokenizer.encode_plain_offsets(run) if run else ([], [])
            firsts = [character for character, _ in owners]
            for token_id, begin in zip(ids, begins, strict=True):
                rows[owners[max(0, bisect_right(firsts, begin) - 1)][1]].append(token_id)

        for number, turn in enumerate(turns):
            owners.append((len(run), number))
            for piece in turn:
                if isinstance(piece, str):
                    run += piece
                    continue
                flush()
                rows[number].append(piece)
                run, owners = "", [(0, number)]
        flush()
        return rows

    def _pieces(self, turn: Turn) -> list[int | str]:
        """A turn as ids of control tokens and plain texts between them."""
        if self.encode_special_in_text:
            return self._split(turn.prefix + turn.text + turn.suffix)
        head, opening, closing, tail = self._frame(turn.prefix, turn.suffix)
        text = opening + turn.text + closing
        return [*head, text, *tail] if text else [*head, *tail]

    def _frame(self, prefix: str, suffix: str) -> tuple[list[int | str], str, str, list[int | str]]:
        """(what comes first, text right before the message, text right after it, what comes last) of a frame.

        In a framed format what comes first and last stands alone, so it is ids already.
        """
        key = (prefix, suffix)
        if key not in self._frames:
            head, tail = self._split(prefix), self._split(suffix)
            opening = head.pop() if head and isinstance(head[-1], str) else ""
            closing = tail.pop(0) if tail and isinstance(tail[0], str) else ""
            if isinstance(self.chat_format, FramedFormat):
                head, tail = self._constant(head), self._constant(tail)
            self._frames[key] = head, str(opening), str(closing), tail
        return self._frames[key]

    def _constant(self, pieces: list[int | str]) -> list[int | str]:
        encoded = iter(self.tokenizer.encode_plain_batch([piece for piece in pieces if isinstance(piece, str)]))
        return list(_assemble(pieces, encoded))

    def _split(self, text: str) -> list[int | str]:
        pieces: list[int | str] = []
        position = 0
        for match in self._special.finditer(text):
            pieces += [text[position : match.start()], self.tokenizer.special_tokens[match.group()]]
            position = match.end()
        return [piece for piece in (*pieces, text[position:]) if piece != ""]


class _FramedPass:
    """The fast pass: whole documents through the engine, turns found again by the control tokens of their frames.

    A document that gives a control id too many (its text spells one) is reported as odd, for the reference to encode.
    """

    def __init__(self, tokenizer: Tokenizer, chat_format: FramedFormat, engine: FastEngine | None) -> None:
        self.engine = engine
        specials = re.compile("|".join(map(re.escape, tokenizer.special_tokens)) or r"(?!)")
        frames = [chat_format.frames[role] for role in Role]
        found = [specials.findall(prefix + suffix) for prefix, suffix in frames]
        self.specials_per_turn = len(found[0])
        self.is_possible = (
            engine is not None
            and self.specials_per_turn > 0
            and all(len(names) == self.specials_per_turn for names in found)
            and all(specials.match(prefix) for prefix, _ in frames)
            and all(tokenizer.special_tokens[name] in engine.special_ids for names in found for name in names)
        )
        if not self.is_possible or engine is None:
            return
        self.frames = dict(zip(Role, frames, strict=True))
        self.frame_ids = np.array(
            [[tokenizer.special_tokens[name] for name in names] for names in found], dtype=np.int64
        )
        self.is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
        self.is_special[engine.special_ids] = True

    def encode(self, conversations: Sequence[Conversation]) -> tuple[EncodedBatch, list[int]]:
        """The batch, and the numbers of documents in it that are not right."""
        assert self.engine is not None
        texts = [self.render(conversation) for conversation in conversations]
        turn_counts = np.array([len(conversation.messages) for conversation in conversations], dtype=np.int64)
        roles = np.array([m[0] for conversation in conversations for m in conversation.messages], dtype=np.uint8)
        expected = self.frame_ids[roles].reshape(-1)
        flat = self.engine.encode_joined(texts)
        positions = np.flatnonzero(self.is_special[flat])
        odd = np.empty(0, dtype=np.int64)
        if np.array_equal(flat[positions], expected):
            starts = positions[:: self.specials_per_turn]
        else:
            flat, starts, odd = self._encode_one_by_one(texts, turn_counts, expected)
        turn_sizes = np.diff(starts, append=flat.size)
        document_sizes = np.add.reduceat(turn_sizes, np.cumsum(turn_counts) - turn_counts)
        controls = np.zeros(len(texts), dtype=np.int64)
        return EncodedBatch(flat, document_sizes, turn_counts, turn_sizes, roles, controls, texts), odd.tolist()

    def _encode_one_by_one(
        self, texts: list[str], turn_counts: NDArray[np.int64], expected: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
        """(ids, (T,) turn starts, odd documents): the slower way, for a batch with control tokens in its texts.

        An odd document's turns all start at its end but the first, until it is replaced.
        """
        assert self.engine is not None
        flat, offsets = self.engine.encode(texts)
        positions = np.flatnonzero(self.is_special[flat])
        found = np.diff(np.searchsorted(positions, offsets))
        is_odd = found != turn_counts * self.specials_per_turn
        is_odd_turn = np.repeat(is_odd, turn_counts)
        positions = positions[~np.repeat(is_odd, found)]
        if not np.array_equal(flat[positions], expected[~np.repeat(is_odd_turn, self.specials_per_turn)]):
            raise EngineMismatchError(texts[0])
        starts = np.repeat(offsets[1:], turn_counts)
        starts[~is_odd_turn] = positions[:: self.specials_per_turn]
        first_turns = np.cumsum(turn_counts) - turn_counts
        starts[first_turns[is_odd]] = offsets[:-1][is_odd]
        return flat, starts, np.flatnonzero(is_odd)

    def render(self, conversation: Conversation) -> str:
        """The text of a document."""
        frames = self.frames
        pieces: list[str] = []
        for role, text in conversation.messages:
            prefix, suffix = frames[role]
            pieces += (prefix, text, suffix)
        return "".join(pieces)


def _assemble(pieces: list[int | str], encoded: Iterator[list[int]]) -> list[int]:
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, str):
            ids += next(encoded)
        else:
            ids.append(piece)
    return ids


def _join_documents(rows: list[list[list[int]]], roles: list[list[Role]] | None) -> EncodedBatch:
    turn_counts = np.array([len(turns) for turns in rows], dtype=np.int64)
    turn_sizes = np.array([len(turn) for turns in rows for turn in turns], dtype=np.int64)
    tokens = np.fromiter(
        chain.from_iterable(chain.from_iterable(rows)), dtype=np.uint32, count=int(turn_sizes.sum()) if rows else 0
    )
    document_sizes = np.array([sum(map(len, turns)) for turns in rows], dtype=np.int64)
    turn_roles = np.array([role for document in roles or [] for role in document], dtype=np.uint8)
    return EncodedBatch(
        tokens, document_sizes, turn_counts, turn_sizes, turn_roles, np.zeros(len(rows), np.int64), None
    )


def _replace_documents(batch: EncodedBatch, odd: list[int], replacement: EncodedBatch) -> EncodedBatch:
    """`batch` with the documents of the numbers `odd` taken from `replacement`."""
    token_parts, turn_parts = _Cutter(batch, odd), _Cutter(replacement, list(range(len(odd))))
    sizes, counts = batch.document_sizes.copy(), batch.control_counts.copy()
    sizes[odd], counts[odd] = replacement.document_sizes, replacement.control_counts
    return batch._replace(
        tokens=np.concatenate(token_parts.between(batch.tokens, turn_parts.own_tokens(), "tokens")),
        turn_sizes=np.concatenate(token_parts.between(batch.turn_sizes, turn_parts.own_turns(), "turns")),
        document_sizes=sizes,
        control_counts=counts,
    )


class _Cutter:
    """Cuts the flat arrays of a batch at the documents `numbers`."""

    def __init__(self, batch: EncodedBatch, numbers: list[int]) -> None:
        self.batch, self.numbers = batch, numbers
        self.ends = {"tokens": np.cumsum(batch.document_sizes), "turns": np.cumsum(batch.turn_counts)}
        self.sizes = {"tokens": batch.document_sizes, "turns": batch.turn_counts}

    def between(
        self, flat: NDArray[np.integer], own: list[NDArray[np.integer]], kind: str
    ) -> list[NDArray[np.integer]]:
        """`flat` with the documents' ranges replaced by `own`."""
        pieces, position = [], 0
        for number, replacement in zip(self.numbers, own, strict=True):
            end = int(self.ends[kind][number])
            pieces += [flat[position : end - int(self.sizes[kind][number])], replacement.astype(flat.dtype, copy=False)]
            position = end
        return [*pieces, flat[position:]]

    def own_tokens(self) -> list[NDArray[np.integer]]:
        """Tokens of each document."""
        return np.split(self.batch.tokens, self.ends["tokens"][:-1])

    def own_turns(self) -> list[NDArray[np.integer]]:
        """Turn sizes of each document."""
        return np.split(self.batch.turn_sizes, self.ends["turns"][:-1])
