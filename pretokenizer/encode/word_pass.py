"""Encoding without a fast engine: messages through the word cache, frames and roles put around them as arrays.

For framed formats whose messages' control tokens stay text; everything else is the reference's (encode.py).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.conversation import Conversation
from pretokenizer.chat.formats import FramedFormat
from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import PROOF_INTERVAL, EncodedBatch, EngineMismatchError, ranges
from pretokenizer.encode.word_cache import WordCache
from pretokenizer.tokenizer.tokenizer import Tokenizer


class WordPass:
    """Each turn is: ids before, the text between the frame's control tokens, ids after."""

    name = "the cache of words"

    def __init__(self, tokenizer: Tokenizer, chat_format: FramedFormat, words: WordCache) -> None:
        self.tokenizer, self.words = tokenizer, words
        control_tokens = tokenizer.control_tokens
        self._special = tokenizer.control_pattern
        self._marks = sorted({token[0] for token in control_tokens if token})
        self._frames = [chat_format.frames[role] for role in Role]
        heads, self._openings = zip(*(self._head(prefix) for prefix, _ in self._frames), strict=True)
        self._closings, tails = zip(*(self._tail(suffix) for _, suffix in self._frames), strict=True)
        constants = [*heads, *tails]
        sizes = np.array([len(ids) for ids in constants], dtype=np.int64)
        self._constants = np.array([i for ids in constants for i in ids], dtype=np.uint32)
        starts = np.cumsum(sizes) - sizes
        self._head_starts, self._tail_starts = starts.reshape(2, -1)
        self._head_sizes, self._tail_sizes = sizes.reshape(2, -1)

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Encode documents in order. Raises EngineMismatchError when a sample proves the cache wrong."""
        messages = [message for conversation in conversations for message in conversation.messages]
        roles = np.array([role for role, _ in messages], dtype=np.uint8)
        spoken = [self._openings[role] + text + self._closings[role] for role, text in messages]
        flat, sizes = self.words.encode_plain_flat(spoken)
        self._prove(spoken, flat, sizes)
        text_starts = self._constants.size + np.cumsum(sizes) - sizes
        pieces = np.column_stack([self._head_sizes[roles], sizes, self._tail_sizes[roles]])
        starts = np.column_stack([self._head_starts[roles], text_starts, self._tail_starts[roles]])
        tokens = np.concatenate([self._constants, flat])[ranges(starts.reshape(-1), pieces.reshape(-1))]
        turn_sizes = pieces.sum(axis=1)
        turn_counts = np.array([len(conversation.messages) for conversation in conversations], dtype=np.int64)
        first_turns = np.cumsum(turn_counts) - turn_counts
        controls = np.array([self._count_controls(text) for _, text in messages], dtype=np.int64)
        return EncodedBatch(
            tokens,
            np.add.reduceat(turn_sizes, first_turns),
            turn_counts,
            turn_sizes,
            roles,
            np.add.reduceat(controls, first_turns),
        )

    def _prove(self, texts: list[str], flat: NDArray[np.uint32], sizes: NDArray[np.int64]) -> None:
        ends = np.cumsum(sizes)
        for index in range(0, len(texts), PROOF_INTERVAL):
            found = flat[ends[index] - sizes[index] : ends[index]].tolist()
            if found != self.tokenizer.encode_plain_batch([texts[index]])[0]:
                raise EngineMismatchError(texts[index])

    def _count_controls(self, text: str) -> int:
        if not any(mark in text for mark in self._marks):
            return 0
        return len(self._special.findall(text))

    def _head(self, prefix: str) -> tuple[list[int], str]:
        """(ids up to the last control token, text after it) of a prefix."""
        cut = max((match.end() for match in self._special.finditer(prefix)), default=0)
        return self.tokenizer.encode(prefix[:cut]), prefix[cut:]

    def _tail(self, suffix: str) -> tuple[str, list[int]]:
        """(text up to the first control token, ids from it on) of a suffix."""
        match = self._special.search(suffix)
        cut = match.start() if match else len(suffix)
        return suffix[:cut], self.tokenizer.encode(suffix[cut:])
