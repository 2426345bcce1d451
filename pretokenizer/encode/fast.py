"""The fast pass for framed formats: encode a batch as one text, and find the turns by the marks in their frames.

A frame is the prefix and suffix of a turn. Every frame must begin with a control token, and all frames must hold the
same number of control tokens. A mark (engine.py) stands for each of them, so a control token in a message cannot be
mistaken for one of a frame. Other formats use rendered_pass.py.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import FramedFormat
from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import PROOF_INTERVAL, EncodedBatch, EngineMismatchError
from pretokenizer.encode.engine import FastEngine
from pretokenizer.encode.hard_texts import BATTERY
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.tokenizer.base import Tokenizer


class FrameError(ValueError):
    """Raised when a chat format's frames do not hold the control tokens by which the fast pass finds turns."""


class FramedPass:
    """The fast pass for framed formats: encodes conversations with the fast engine.

    The reference tokenizer checks the pass on hard texts when it is made, and on a sample of the documents that it
    encodes.
    """

    def __init__(self, tokenizer: Tokenizer, chat_format: FramedFormat, reference: ReferencePass) -> None:
        """Load the engine and compare its tokens with the reference pass on hard texts.

        Raises FrameError if a role's frame does not begin with a control token, or if the frames differ in the number
        of control tokens. Raises ImportError without gigatoken, EngineMismatchError if the engine's tokens are wrong,
        and gigatoken's own errors for a vocabulary that it cannot load.
        """
        self._reference, self._format, self._special = reference, chat_format, tokenizer.typed_pattern
        frames = list(chat_format.frames.values())
        found = [self._special.findall(prefix + suffix) for prefix, suffix in frames]
        self._marks_per_turn = len(found[0])
        for (prefix, _), names in zip(frames, found, strict=True):
            if not self._special.match(prefix) or len(names) != self._marks_per_turn:
                raise FrameError(f"the frames of chat format {chat_format.name} differ in their control tokens")
        names = list(dict.fromkeys(name for turn in found for name in turn))
        self.engine = FastEngine(tokenizer, names, reference.encode_special_in_text)
        self.name = self.engine.name
        self._frames = {
            role: (self._marked(prefix), self._marked(suffix)) for role, (prefix, suffix) in chat_format.frames.items()
        }
        self._frame_marks = np.zeros((len(Role), self._marks_per_turn), dtype=np.int64)
        self._frame_ids = np.zeros((len(Role), self._marks_per_turn), dtype=np.uint32)
        for role, turn in zip(chat_format.frames, found, strict=True):
            self._frame_marks[role] = [self.engine.first_mark + names.index(name) for name in turn]
            self._frame_ids[role] = [tokenizer.control_tokens[name] for name in turn]
        self._prove_on_battery(tokenizer)

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Encode conversations, in order. Raises EngineMismatchError if the ids of a sampled document are wrong."""
        batch = self._encode(conversations)
        ends = np.cumsum(batch.document_sizes)
        for document in range(0, len(conversations), PROOF_INTERVAL):
            found = batch.tokens[ends[document] - batch.document_sizes[document] : ends[document]]
            self._compare(conversations[document], found)
        return batch

    def _encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        talks = [self._format.messages(conversation) for conversation in conversations]
        messages = list(chain.from_iterable(talks))
        frame_roles = np.array([message[0] for message in messages], dtype=np.uint8)
        roles = frame_roles
        if any(message[2] is not None for message in messages):
            roles = np.array([message.stored_role for message in messages], dtype=np.uint8)
        pieces = self.marked_pieces(messages)
        text = "".join(pieces)
        tokens = self.engine.encode(text)
        turn_sizes = self._take_marks(tokens, frame_roles)
        if turn_sizes is None:
            raise EngineMismatchError(messages[0].text)
        turn_controls = self._count_controls(text, pieces)
        turn_counts = np.fromiter(map(len, talks), dtype=np.int64, count=len(talks))
        first_turns = np.cumsum(turn_counts) - turn_counts
        sizes, controls = (np.add.reduceat(of_turns, first_turns) for of_turns in (turn_sizes, turn_controls))
        return EncodedBatch(tokens, sizes, turn_counts, turn_sizes, roles, controls, np.zeros_like(sizes))

    def marked_pieces(self, messages: Sequence[Message]) -> list[str]:
        """Return prefix, text and suffix of every message in one list, with marks for the frames' control tokens."""
        frames = self._frames
        pieces: list[str] = []
        for message in messages:
            prefix, suffix = frames[message[0]]
            pieces += (prefix, message[1], suffix)
        return pieces

    def _take_marks(self, tokens: NDArray[np.uint32], roles: NDArray[np.uint8]) -> NDArray[np.int64] | None:
        """Replace the marks in `tokens` by the ids of their control tokens, in place.

        Return the number of tokens of each of the T turns, as an array (T,). Return None if the marks do not fit the
        frames of `roles` (T,).
        """
        positions = np.flatnonzero(tokens >= self.engine.first_mark)
        if not np.array_equal(tokens[positions], self._frame_marks[roles].reshape(-1)):
            return None
        tokens[positions] = self._frame_ids[roles].reshape(-1)
        return np.diff(positions[:: self._marks_per_turn], append=tokens.size)

    def _count_controls(self, text: str, pieces: list[str]) -> NDArray[np.int64]:
        """Return the number of control tokens spelled in each of the T messages, as an array (T,)."""
        found = [match.start() for match in self._special.finditer(text)]
        if not found:
            return np.zeros(len(pieces) // 3, dtype=np.int64)
        ends = np.cumsum(np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces)))
        return np.bincount(np.searchsorted(ends, found, side="right") // 3, minlength=len(pieces) // 3)

    def _marked(self, text: str) -> str:
        return self._special.sub(lambda match: self.engine.marks[match.group()], text)

    def _prove_on_battery(self, tokenizer: Tokenizer) -> None:
        """Compare the ids of hard texts and of spelled control tokens, in every frame, with the reference's."""
        texts = [*BATTERY, *(f"a{token} {token}b" for token in tokenizer.control_tokens)]
        talks = [Conversation((Message(role, text),)) for role in self._frames for text in texts]
        if not np.array_equal(self._encode(talks).tokens, self._reference.encode(talks).tokens):
            for talk in talks:
                self._compare(talk, self._encode([talk]).tokens)
            raise EngineMismatchError("all of these together")

    def _compare(self, conversation: Conversation, found: NDArray[np.integer]) -> None:
        """Raise EngineMismatchError if the reference tokenizer gives the conversation other ids than `found`."""
        if not np.array_equal(found, self._reference.encode([conversation]).tokens):
            raise EngineMismatchError(conversation.messages[0].text)
