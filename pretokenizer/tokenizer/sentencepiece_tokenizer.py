"""SentencePiece tokenizers, with the same ids as in the Open-Assistant pretokenizer. (SHARED)

Megatron's wrapper appends `<CLS> <SEP> <EOD> <MASK> <PAD>` to the vocabulary before any extra special token. So does
this class.

Source of the rules: LAION-AI/Open-Assistant f1e6ed9 pretokenizer/tokenizer/tokenizer.py.
"""

import re
import secrets
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pretokenizer.tokenizer.base import Alignment, Tokenizer, TokenizerError

WRAPPER_TOKENS = ("<CLS>", "<SEP>", "<EOD>", "<MASK>")
"""Tokens that Megatron's wrapper appends to the vocabulary, before the model's own pad, BOS and EOS tokens."""

_USER_DEFINED = 4
"""Type of a piece that SentencePiece never splits: a value of `SentencePiece.type` in sentencepiece_model.proto."""
_CONTROL_SYMBOL = re.compile(r"<[^<>\s]*[_|][^<>\s]*>")
"""Form of user-defined pieces that are control tokens, such as Gemma's `<end_of_turn>`, and not HTML tags or spaces."""


class SentencePieceTokenizer(Tokenizer):
    """The tokenizer in a SentencePiece `tokenizer.model`, with the special tokens that Megatron's wrapper appends."""

    kind = "sentencepiece"
    file_name = "tokenizer.model"

    def __init__(self, path: Path, extra_special_tokens: Sequence[str] = (), new_tokens: bool = True) -> None:
        """Load the file. Raises TokenizerError if it is not a SentencePiece model."""
        import sentencepiece

        super().__init__(path, extra_special_tokens, new_tokens)
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
            self.pieces: list[str] = self.processor.id_to_piece(list(range(self.processor.get_piece_size())))
        except (RuntimeError, OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path}: not a SentencePiece model ({error})") from None
        self.tokens = [*self.pieces]
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        pad = self._own_piece(self.processor.pad_id(), "<PAD>")
        bos = self._own_piece(self.processor.bos_id(), "<BOS>")
        eos = self._own_piece(self.processor.eos_id(), "<EOS>")
        for token in (*WRAPPER_TOKENS, pad, bos, eos):
            if new_tokens or token in self._ids:
                self._add_special(token)
        for token in extra_special_tokens:
            self._add_special(token)
        self.eos_token_id = self._ids.get(eos, len(self.pieces) - 1)
        self.bos_token_id = self._ids.get(bos)
        self.pad_token_id = self._ids.get(pad, self.eos_token_id)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a piece or special token, or None when the vocabulary lacks it."""
        return self._ids.get(token)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text. A special token spelled in the text becomes its id.

        The fragments between special tokens are encoded separately, so SentencePiece adds its dummy prefix to each.
        """
        ids: list[int] = []
        position = 0
        for match in self.control_pattern.finditer(text):
            ids += self.processor.encode(text[position : match.start()])
            ids.append(self.special_tokens[match.group()])
            position = match.end()
        return ids + list(self.processor.encode(text[position:]))

    def align(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> Alignment:
        """Return the token ids of a text and the characters that each token covers (see `Tokenizer.align`).

        SentencePiece encodes each user-defined piece that a text spells as one token, and some of these pieces are
        control tokens. If one is spelled inside `plain`, `_marked_processor` encodes the text, because it takes the
        spelled piece for ordinary text. Each such piece outside of `plain` is replaced by a random mark, which
        `_marked_processor` recognises.
        """
        own, is_spelled = self.control_matches(text, plain)
        symbols = [match for match in own if match.group() in self._symbols]
        encode = self._encode_marked if is_spelled and self._symbols else self._encode_fragment
        found = Alignment([], [], [])
        at = 0
        for match in own:
            if match.group() in self.special_tokens:
                encode(text, at, match.start(), symbols, found)
                found.ids.append(self.special_tokens[match.group()])
                found.begins.append(match.start())
                found.ends.append(match.end())
                at = match.end()
        encode(text, at, len(text), symbols, found)
        return found

    @cached_property
    def typed_pattern(self) -> re.Pattern[str]:
        """Regular expression for the special tokens and the user-defined control tokens, longer ones first."""
        longest_first = sorted({**self.special_tokens, **self._symbols}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @cached_property
    def _symbols(self) -> dict[str, str]:
        """{piece: mark} of the user-defined pieces that are control tokens or look like them.

        A mark is a random text that no message contains and that stands for the piece in `align`.
        """
        from sentencepiece import sentencepiece_model_pb2

        model = sentencepiece_model_pb2.ModelProto.FromString(self.path.read_bytes())
        nonce = secrets.token_hex(4)
        return {
            piece.piece: f"<{nonce}{number}>"
            for number, piece in enumerate(model.pieces)
            if piece.type == _USER_DEFINED
            and (piece.piece in self.special_tokens or _CONTROL_SYMBOL.fullmatch(piece.piece))
        }

    @cached_property
    def _marked_processor(self) -> Any:
        """A processor of the same model that recognises the marks in `_symbols` instead of the pieces."""
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        model = sentencepiece_model_pb2.ModelProto.FromString(self.path.read_bytes())
        for piece in model.pieces:
            if piece.type == _USER_DEFINED:
                piece.piece = self._symbols.get(piece.piece, piece.piece)
        return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())

    def _encode_fragment(
        self, text: str, begin: int, end: int, symbols: Sequence[re.Match[str]], found: Alignment
    ) -> None:
        """Append the tokens that SentencePiece gives `text[begin:end]` to `found`.

        `symbols` is unused: `align` calls this method or `_encode_marked`, with the same arguments.
        """
        if begin == end:
            return
        mapping = self.processor.encode(text[begin:end], out_type="offset_mapping")
        found.ids.extend(mapping["ids"])
        found.begins.extend([begin + first for first, _ in mapping["offsets"]])
        found.ends.extend([begin + last for _, last in mapping["offsets"]])

    def _encode_marked(
        self, text: str, begin: int, end: int, symbols: Sequence[re.Match[str]], found: Alignment
    ) -> None:
        """Append the tokens of `text[begin:end]` to `found`. Only the matches in `symbols` become control tokens."""
        pieces, positions, at = [], [], begin
        for match in symbols:
            if begin <= match.start() < end:
                mark = self._symbols[match.group()]
                pieces += [text[at : match.start()], mark]
                positions += [*range(at, match.start() + 1), *[match.start()] * (len(mark) - 1)]
                at = match.end()
        positions += range(at, end + 1)
        mapping = self._marked_processor.encode("".join([*pieces, text[at:end]]), out_type="offset_mapping")
        found.ids.extend(mapping["ids"])
        found.begins.extend([positions[first] for first, _ in mapping["offsets"]])
        found.ends.extend([positions[last] for _, last in mapping["offsets"]])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, with special tokens spelled out. SentencePiece decodes the ids between them."""
        pieces: list[str] = []
        run: list[int] = []
        special = {i: token for token, i in self.special_tokens.items()}
        for token_id in map(int, ids):
            self.id_to_token(token_id)
            if token_id in special:
                pieces += [self.processor.decode(run), special[token_id]]
                run = []
            else:
                run.append(token_id)
        return "".join([*pieces, self.processor.decode(run)])

    def _own_piece(self, piece_id: int, fallback: str) -> str:
        return str(self.processor.id_to_piece(piece_id)) if piece_id >= 0 else fallback

    def _add_special(self, token: str) -> None:
        if token not in self._ids:
            self._ids[token] = len(self.tokens)
            self.tokens.append(token)
        self.special_tokens[token] = self._ids[token]
