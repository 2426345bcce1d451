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
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat_format import ChatFormat, FramedFormat, Turn
from pretokenizer.conversation import Conversation, Message
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
        self._control_tokens = tokenizer.control_tokens
        self._special = re.compile("|".join(map(re.escape, self._control_tokens)) or r"(?!)")
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
        batch = self._framed.encode(conversations, self._encode_by_reference)
        self._prove(conversations, batch)
        return batch._replace(texts=[self._framed.render(c) for c in conversations]) if self.keep_texts else batch

    def _prove(self, conversations: Sequence[Conversation], batch: EncodedBatch) -> None:
        """Compare a sample of documents, each as a whole, with the reference's ids."""
        assert self._framed is not None
        ends = np.cumsum(batch.document_sizes)
        for document in range(0, len(conversations), PROOF_INTERVAL):
            if self._framed.has_odd_turn(conversations[document]):
                continue  # its control tokens are text here, and ids when the whole is encoded
            text = self._framed.render(conversations[document])
            found = batch.tokens[ends[document] - batch.document_sizes[document] : ends[document]]
            if found.tolist() != self.tokenizer.encode(text):
                raise EngineMismatchError(text)

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
            pieces += [text[position : match.start()], self._control_tokens[match.group()]]
            position = match.end()
        return [piece for piece in (*pieces, text[position:]) if piece != ""]


class _FramedPass:
    """The fast pass: a batch through the engine as one text, turns found again by the control tokens of their frames.

    A turn that spells a control token is odd, and encoded exactly: the engine would take it for the token.
    """

    def __init__(self, tokenizer: Tokenizer, chat_format: FramedFormat, engine: FastEngine | None) -> None:
        self.engine = engine
        control_tokens = tokenizer.control_tokens
        specials = re.compile("|".join(map(re.escape, control_tokens)) or r"(?!)")
        frames = [chat_format.frames[role] for role in Role]
        found = [specials.findall(prefix + suffix) for prefix, suffix in frames]
        self.specials_per_turn = len(found[0])
        self.is_possible = (
            engine is not None
            and self.specials_per_turn > 0
            and all(len(names) == self.specials_per_turn for names in found)
            and all(specials.match(prefix) for prefix, _ in frames)
            and all(control_tokens[name] in engine.special_ids for names in found for name in names)
        )
        if not self.is_possible or engine is None:
            return
        self.frames = frames
        self.frame_ids = np.array([[control_tokens[name] for name in names] for names in found])
        self.is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
        self.is_special[engine.special_ids] = True
        names = [tokenizer.id_to_token(i) for i in engine.special_ids.tolist()]
        self._odd = re.compile("|".join(re.escape(name) for name in names if name))

    def encode(
        self, conversations: Sequence[Conversation], encode_exactly: Callable[[Sequence[Conversation]], EncodedBatch]
    ) -> EncodedBatch:
        """The documents, in order. Raises EngineMismatchError when the engine gives too few or other control ids."""
        assert self.engine is not None
        messages = list(chain.from_iterable([conversation.messages for conversation in conversations]))
        roles = np.array([role for role, _ in messages], dtype=np.uint8)
        flat = self.engine.encode_joined(self._pieces(messages))
        turn_sizes = self._turn_sizes(flat, roles)
        turn_controls = np.zeros(len(messages), dtype=np.int64)
        if turn_sizes is None:
            flat, turn_sizes, turn_controls = self._encode_around_odd(messages, roles, encode_exactly)
        turn_counts = np.array([len(conversation.messages) for conversation in conversations], dtype=np.int64)
        first_turns = np.cumsum(turn_counts) - turn_counts
        sizes, controls = (np.add.reduceat(of_turns, first_turns) for of_turns in (turn_sizes, turn_controls))
        return EncodedBatch(flat, sizes, turn_counts, turn_sizes, roles, controls, None)

    def _encode_around_odd(
        self,
        messages: list[Message],
        roles: NDArray[np.uint8],
        encode_exactly: Callable[[Sequence[Conversation]], EncodedBatch],
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
        """(ids, (T,) turn sizes, (T,) control tokens spelled) of a batch with odd turns."""
        assert self.engine is not None
        is_odd = np.array([self._odd.search(text) is not None for _, text in messages])
        odd = encode_exactly([Conversation((message,)) for message, skip in zip(messages, is_odd) if skip])
        sound = [message for message, skip in zip(messages, is_odd) if not skip]
        flat = self.engine.encode_joined(self._pieces(sound))
        sound_sizes = self._turn_sizes(flat, roles[~is_odd])
        if sound_sizes is None:
            raise EngineMismatchError(sound[0].text)
        turn_sizes, turn_controls = np.zeros((2, len(messages)), dtype=np.int64)
        turn_sizes[~is_odd], turn_sizes[is_odd] = sound_sizes, odd.turn_sizes
        turn_controls[is_odd] = odd.control_counts
        is_odd_token = np.repeat(is_odd, turn_sizes)
        tokens = np.empty(is_odd_token.size, dtype=np.uint32)
        tokens[~is_odd_token], tokens[is_odd_token] = flat, odd.tokens
        return tokens, turn_sizes, turn_controls

    def _turn_sizes(self, flat: NDArray[np.uint32], roles: NDArray[np.uint8]) -> NDArray[np.int64] | None:
        """(T,) tokens of each turn, or None when the control ids are not exactly those of the frames."""
        positions = np.flatnonzero(self.is_special[flat])
        if not np.array_equal(flat[positions], self.frame_ids[roles].reshape(-1)):
            return None
        return np.diff(positions[:: self.specials_per_turn], append=flat.size)

    def _pieces(self, messages: Sequence[Message]) -> list[str]:
        frames = self.frames
        pieces: list[str] = []
        for role, text in messages:
            prefix, suffix = frames[role]
            pieces += (prefix, text, suffix)
        return pieces

    def has_odd_turn(self, conversation: Conversation) -> bool:
        """Whether a message spells a control token."""
        return any(self._odd.search(text) for _, text in conversation.messages)

    def render(self, conversation: Conversation) -> str:
        """The text of a document."""
        return "".join(self._pieces(conversation.messages))


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
