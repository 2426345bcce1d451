"""Encode conversations to token ids and role ids, a batch at a time.

    encoder, line = make_encoder(tokenizer, CHAT_FORMATS["chatml"])
    batch = encoder.encode([conversation, ...])
    batch.tokens, batch.document_sizes, batch.turn_sizes, batch.turn_roles

A control token spelled inside a message (`<|im_end|>` in user text) stays text, or becomes the control token with
`encode_special_in_text`. Either way it is counted. The fast engine is used where its ids are proved equal to the
reference tokenizer's. Elsewhere the reference tokenizer encodes.
"""

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pretokenizer.chat.conversation import Conversation
from pretokenizer.chat.formats import ChatFormat, FramedFormat
from pretokenizer.encode.batch import EncodedBatch, EngineMismatchError
from pretokenizer.encode.engine import EngineError
from pretokenizer.encode.fast import FramedPass, FrameError
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.encode.rendered_pass import RenderedPass
from pretokenizer.tokenizer.base import Tokenizer

REFERENCE_ENV = "PRETOKENIZER_ENGINE"
"""Environment variable that turns the fast engine off with the value `reference`."""


class Pass(Protocol):
    """Interface of a pass, which encodes conversations in one chat format: the reference tokenizer or a fast engine."""

    name: str
    """Name of the tokenizer library, for messages to the user."""

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Encode one or more conversations, in order, as one document each. `texts` of the batch stays None.

        Raises EngineMismatchError if the pass finds that its ids differ from the reference tokenizer's.
        """


class Encoder:
    """Encodes conversations with the pass `way`, and keeps their texts in the batch if `keep_texts` is set.

    A framed pass cannot encode plain text, so the reference pass encodes a batch that has some.
    """

    def __init__(self, way: Pass, reference: ReferencePass, keep_texts: bool = False) -> None:
        self.way, self._reference, self.keep_texts = way, reference, keep_texts
        self.warnings: list[str] = [*reference.chat_format.warnings]

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Encode conversations, in order. Raises EngineMismatchError if the ids of a sampled document are wrong."""
        if not conversations:
            return _empty_batch()
        is_plain = [conversation.is_plain for conversation in conversations]
        way = self._reference if any(is_plain) and isinstance(self.way, FramedPass) else self.way
        batch = way.encode(conversations)
        if not self.keep_texts:
            return batch
        return batch._replace(texts=[self._reference.render(conversation).text for conversation in conversations])


def make_encoder(
    tokenizer: Tokenizer, chat_format: ChatFormat, encode_special_in_text: bool = False, keep_texts: bool = False
) -> tuple[Encoder, str]:
    """Return the fastest encoder that agrees with the reference tokenizer on hard texts, and a line that names it.

    With `encode_special_in_text`, a control token spelled in a message becomes the control token. With `keep_texts`,
    the batches hold the texts of the documents.
    """
    reference = ReferencePass(tokenizer, chat_format, encode_special_in_text)
    fast = _fast_way(tokenizer, chat_format, reference)
    if isinstance(fast, (FramedPass, RenderedPass)):
        return Encoder(fast, reference, keep_texts), f"{fast.name}, proved against {tokenizer.kind}"
    encoder = Encoder(reference, reference, keep_texts)
    if isinstance(fast, EngineMismatchError):
        encoder.warnings.append(f"{fast}; {tokenizer.kind} encoded everything")
    return encoder, f"{tokenizer.kind} (the reference; {fast})"


def _fast_way(
    tokenizer: Tokenizer, chat_format: ChatFormat, reference: ReferencePass
) -> FramedPass | RenderedPass | EngineMismatchError | str:
    """Return the fast pass for the chat format, or the reason why the reference tokenizer must encode."""
    if os.environ.get(REFERENCE_ENV) == "reference":
        return f"{REFERENCE_ENV}=reference"
    try:
        if isinstance(chat_format, FramedFormat) and chat_format.loss == "turn":
            return FramedPass(tokenizer, chat_format, reference)
        return RenderedPass(tokenizer, chat_format, reference)
    except ImportError:
        return "gigatoken is not installed"
    except (FrameError, EngineError) as error:
        return str(error)
    except EngineMismatchError as error:
        return EngineMismatchError(f"gigatoken gives other ids for {str(error)!r}")
    except Exception as error:  # the engine may raise anything for a vocabulary that it does not support
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"gigatoken cannot load this vocabulary: {reason}"


def _empty_batch() -> EncodedBatch:
    none = np.empty(0, dtype=np.int64)
    return EncodedBatch(none.astype(np.uint32), none, none, none, none.astype(np.uint8), none, none)
