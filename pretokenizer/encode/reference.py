"""The reference pass: encode every document with the tokenizer's own library, in any chat format.

A document is encoded as one text, so a token may cross the border of two turns. A control token spelled inside a
message stays text, unless `encode_special_in_text` is set.
"""

from collections.abc import Sequence

import numpy as np

from pretokenizer.chat.conversation import Conversation
from pretokenizer.chat.formats import ChatFormat
from pretokenizer.chat.rendered import Kind, Rendered
from pretokenizer.encode.batch import EncodedBatch, notes_of
from pretokenizer.encode.token_roles import TokenRoles, runs_of, token_roles
from pretokenizer.tokenizer.base import Tokenizer


class ReferencePass:
    """Encodes conversations with the tokenizer's own library.

    A control token spelled in a message stays text, or becomes the control token with `encode_special_in_text`.
    """

    def __init__(self, tokenizer: Tokenizer, chat_format: ChatFormat, encode_special_in_text: bool = False) -> None:
        self.tokenizer, self.name = tokenizer, tokenizer.kind
        self.chat_format = chat_format
        self.encode_special_in_text = encode_special_in_text

    def encode(self, conversations: Sequence[Conversation]) -> EncodedBatch:
        """Encode conversations, in order. Raises ChatFormatError if the format cannot express one of them."""
        return self.encode_rendered([self.render(conversation) for conversation in conversations])

    def render(self, conversation: Conversation) -> Rendered:
        """Return a conversation as pieces of text. A plain one is its text and the end-of-text token."""
        if not conversation.is_plain:
            return self.chat_format.render(conversation)
        eos = self.tokenizer.id_to_token(self.tokenizer.eos_token_id) or ""
        message = conversation.messages[0]
        return Rendered((message.text, eos), (Kind(message.stored_role, True), Kind(message.stored_role, False)))

    def encode_rendered(self, documents: Sequence[Rendered]) -> EncodedBatch:
        """Return the token ids and roles of rendered documents as one batch."""
        found = [self._encode(document) for document in documents]
        ids = np.concatenate([np.array(ids, dtype=np.uint32) for ids, _, _ in found])
        roles = np.concatenate([own.roles for _, own, _ in found])
        sizes = np.array([len(ids) for ids, _, _ in found], dtype=np.int64)
        straddling = np.array([own.straddling.size for _, own, _ in found], dtype=np.int64)
        controls = np.array([count for _, _, count in found], dtype=np.int64)
        return EncodedBatch(ids, sizes, *runs_of(roles, sizes), controls, straddling, notes=notes_of(documents))

    def _encode(self, document: Rendered) -> tuple[list[int], TokenRoles, int]:
        """Return (ids, roles, number of control tokens spelled in messages) of a document."""
        text = document.text
        lengths = np.array([len(piece) for piece in document.texts], dtype=np.int64)
        ends = np.cumsum(lengths)
        bounds = zip((ends - lengths).tolist(), ends.tolist(), document.kinds, strict=True)
        data = [(begin, end) for begin, end, kind in bounds if kind.is_data and end > begin]
        found = self.tokenizer.align(text, [] if self.encode_special_in_text else data)
        piece_roles = np.array([kind.role for kind in document.kinds], dtype=np.uint8)
        begins, token_ends = np.array(found.begins, dtype=np.int64), np.array(found.ends, dtype=np.int64)
        roles = token_roles(begins, token_ends, ends, piece_roles, self.chat_format.loss == "marks")
        controls = sum(len(self.tokenizer.typed_pattern.findall(text, begin, end)) for begin, end in data)
        return found.ids, roles, controls
