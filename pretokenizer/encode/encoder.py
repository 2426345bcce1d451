"""Conversations -> token ids and role ids, a batch at a time.

    encoder, line = make_encoder(tokenizer, CHAT_FORMATS["chatml"])
    batch = encoder.encode([conversation, ...])
    batch.tokens, batch.document_sizes, batch.turn_sizes, batch.turn_roles

A control token spelled inside a message (`<|im_end|>` in user text) stays text, or becomes the control token with
`encode_special_in_text`; either way it is counted. The fast engine encodes where its ids are proved equal to the
reference tokenizer's; elsewhere the reference tokenizer encodes.
"""

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pretokenizer.chat.conversation import Conversation
from pretokenizer.chat.formats import ChatFormat, FramedFormat
from pretokenizer.encode.batch import EncodedBatch, EngineMismatchError
from pretokenizer.encode.fast import FramedPass, FrameError
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.tokenizer.base import Tokenizer

REFERENCE_ENV = "PRETOKENIZER_ENGINE"
"""Set to `reference` to do without the fast engine."""


class Pass(Protocol):
    """A way to encode documents of one chat format."""

    name: str
    """For messages."""

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Documents in order, without texts; conversations are not empty. Raises EngineMismatchError when it finds
        itself wrong.
        """


class Encoder:
    """Encodes by one of the ways, and renders the texts where they are wanted."""

    def __init__(self, way: Pass, chat_format: ChatFormat, keep_texts: bool = False) -> None:
        self.way, self.chat_format, self.keep_texts = way, chat_format, keep_texts
        self.warnings: list[str] = []

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Encode documents in order. Raises EngineMismatchError when a sample proves a fast way wrong."""
        if not conversations:
            return _empty_batch()
        batch = self.way.encode(conversations)
        if not self.keep_texts:
            return batch
        return batch._replace(texts=["".join(text for text, _ in self.chat_format.render(c)) for c in conversations])


def make_encoder(
    tokenizer: Tokenizer, chat_format: ChatFormat, encode_special_in_text: bool = False, keep_texts: bool = False
) -> tuple[Encoder, str]:
    """The fastest encoder that is right on the battery of hard texts, and a line that says which it is."""
    reference = ReferencePass(tokenizer, chat_format, encode_special_in_text)
    fast = _fast_way(tokenizer, chat_format, reference)
    if isinstance(fast, FramedPass):
        return Encoder(fast, chat_format, keep_texts), f"{fast.name}, proved against {tokenizer.kind}"
    encoder = Encoder(reference, chat_format, keep_texts)
    if isinstance(fast, EngineMismatchError):
        encoder.warnings.append(f"{fast}; {tokenizer.kind} encoded everything")
    return encoder, f"{tokenizer.kind} (the reference; {fast})"


def _fast_way(
    tokenizer: Tokenizer, chat_format: ChatFormat, reference: ReferencePass
) -> FramedPass | EngineMismatchError | str:
    """The fast pass, or why there is none."""
    if os.environ.get(REFERENCE_ENV) == "reference":
        return f"{REFERENCE_ENV}=reference"
    if not isinstance(chat_format, FramedFormat):
        return f"chat format {chat_format.name} has no fixed frames"
    try:
        return FramedPass(tokenizer, chat_format, reference)
    except ImportError:
        return "gigatoken is not installed"
    except FrameError as error:
        return str(error)
    except EngineMismatchError as error:
        return EngineMismatchError(f"gigatoken gives other ids for {str(error)!r}")
    except Exception as error:  # whatever a foreign engine raises on a vocabulary it does not know
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"gigatoken cannot load this vocabulary: {reason}"


def _empty_batch() -> EncodedBatch:
    none = np.empty(0, dtype=np.int64)
    return EncodedBatch(none.astype(np.uint32), none, none, none, none.astype(np.uint8), none)
