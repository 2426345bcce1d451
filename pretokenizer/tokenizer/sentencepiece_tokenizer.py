"""SentencePiece tokenizers, id for id as the Open-Assistant pretokenizer numbers them. (SHARED)

Megatron's wrapper appends `<CLS> <SEP> <EOD> <MASK> <PAD>` to the vocabulary before any extra special token. So does
this class.

Source of the rules: LAION-AI/Open-Assistant f1e6ed9 pretokenizer/tokenizer/tokenizer.py.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pretokenizer.tokenizer.base import Tokenizer, TokenizerError

WRAPPER_TOKENS = ("<CLS>", "<SEP>", "<EOD>", "<MASK>")
"""Tokens that Megatron's wrapper appends, before the model's own pad, BOS and EOS tokens."""


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece `tokenizer.model` behind the rules of Megatron's wrapper."""

    kind = "sentencepiece"
    file_name = "tokenizer.model"

    def __init__(self, path: Path, extra_special_tokens: Sequence[str] = (), new_tokens: bool = True) -> None:
        """Raises TokenizerError if the file is not a SentencePiece model."""
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
        """Return the id of a piece or special token, or None."""
        return self._ids.get(token)

    def encode(self, text: str) -> list[int]:
        """Encode the fragments between special tokens separately; each gets SentencePiece's dummy prefix."""
        ids: list[int] = []
        position = 0
        for match in self.control_pattern.finditer(text):
            ids += self.processor.encode(text[position : match.start()])
            ids.append(self.special_tokens[match.group()])
            position = match.end()
        return ids + list(self.processor.encode(text[position:]))

    def encode_plain_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts with SentencePiece itself, which never reads control tokens from text."""
        return [list(self.processor.encode(text)) for text in texts]

    def encode_plain_offsets(self, text: str, at_start: bool = False) -> tuple[list[int], list[int]]:
        """Return ids and begins from SentencePiece's own alignment; `at_start` makes no difference to it."""
        mapping = self.processor.encode(text, out_type="offset_mapping")
        return list(mapping["ids"]), [begin for begin, _ in mapping["offsets"]]

    def decode(self, ids: Iterable[int]) -> str:
        """Decode runs of ordinary ids with SentencePiece and spell special tokens out."""
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
