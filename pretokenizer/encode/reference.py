"""The exact way: every turn through the reference tokenizer, whatever the chat format.

The ids are those of the whole text. Where turns begin with a control token, as chatml's and oasst's do, each is encoded
on its own.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from pretokenizer.chat.conversation import Conversation
from pretokenizer.chat.formats import ChatFormat, FramedFormat, Turn
from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import EncodedBatch
from pretokenizer.tokenizer.base import Tokenizer


class ReferencePass:
    """A control token spelled in a message stays text, or becomes the token with `encode_special_in_text`."""

    def __init__(self, tokenizer: Tokenizer, chat_format: ChatFormat, encode_special_in_text: bool = False) -> None:
        self.tokenizer, self.name = tokenizer, tokenizer.kind
        self.chat_format = chat_format
        self.encode_special_in_text = encode_special_in_text
        self._control_tokens = tokenizer.control_tokens
        self._frames: dict[tuple[str, str], tuple[list[int | str], str, str, list[int | str]]] = {}

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """The documents, in order."""
        documents = [self.chat_format.turns(conversation.messages) for conversation in conversations]
        pieces = [[self._pieces(turn) for turn in turns] for turns in documents]
        if isinstance(self.chat_format, FramedFormat):
            plain = [p for turns in pieces for turn in turns for p in turn if isinstance(p, str)]
            encoded = iter(self.tokenizer.encode_plain_batch(plain))
            rows = [[_assemble(turn, encoded) for turn in turns] for turns in pieces]
        else:
            rows = [self._encode_across_turns(turns) for turns in pieces]
        joined = _join_documents(rows, [[turn.role for turn in turns] for turns in documents])
        counts = [sum(len(self.tokenizer.control_pattern.findall(turn.text)) for turn in turns) for turns in documents]
        return joined._replace(control_counts=np.array(counts, dtype=np.int64))

    def _encode_across_turns(self, turns: list[list[int | str]]) -> list[list[int]]:
        """Ids of each turn where a turn may begin inside a text: text runs on, and a token goes to where it begins."""
        rows: list[list[int]] = [[] for _ in turns]
        run, owners = "", [(0, 0)]  # text since the last control token, and (character, turn) where turns begin in it

        def flush() -> None:
            ids, begins = self.tokenizer.encode_plain_offsets(run, at_start=not any(rows)) if run else ([], [])
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
        for match in self.tokenizer.control_pattern.finditer(text):
            pieces += [text[position : match.start()], self._control_tokens[match.group()]]
            position = match.end()
        return [piece for piece in (*pieces, text[position:]) if piece != ""]


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
    return EncodedBatch(tokens, document_sizes, turn_counts, turn_sizes, turn_roles, np.zeros(len(rows), np.int64))
