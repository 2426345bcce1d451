"""A SentencePiece model as a `tokenizer.json` that gives sentencepiece's ids; differing_texts finds exceptions.

    backend = tokenizers_backend(SentencePieceTokenizer)      # a tokenizers.Tokenizer; backend.save("tokenizer.json")

SentencePiece's BPE joins the pair whose joined piece has the best score, leftmost first; `tokenizers` joins the pair
of lowest rank. So the merges are all ways to split each piece into two pieces, ordered by the joined piece's score.
Splits of one piece are ordered longest left part first: in runs of one character, such as spaces, that is the pair
SentencePiece meets first. Each fragment after a special token gets the dummy prefix, as in Megatron's wrapper.
`<unk>` is no special token: it is text.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from checkpoint_convert.tensors.tensor import ConvertError
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
UNIGRAM, BPE = 1, 2
PROBES = ("The  quick brown\tfox.\n\n    x = 10", " 1,000 ½ ﬁ Ａ é e\u0301 日本 🎉 ", "x<unk>y <0x0A> <s>", "")
"""Spaces, what normalisation changes, and pieces that are text where they are spelled."""


def tokenizers_backend(tokenizer: SentencePieceTokenizer, add_bos: bool = True) -> Any:
    """The `tokenizers.Tokenizer` of a SentencePiece model with its special tokens. Raises ConvertError."""
    proto = _read_proto(tokenizer)
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise ConvertError(f"{tokenizer.path}: treat_whitespace_as_suffix has no counterpart in tokenizer.json")
    backend = tokenizers.Tokenizer(_model(proto, tokenizer))
    backend.normalizer = _normalizer(proto.normalizer_spec)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if proto.normalizer_spec.add_dummy_prefix else [])
    )
    defined = [piece.piece for piece in proto.pieces if piece.type == USER_DEFINED]
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in defined])
    for token, token_id in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1]):
        backend.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        if backend.token_to_id(token) != token_id:
            raise ConvertError(
                f"{tokenizer.path}: {token} would get id {backend.token_to_id(token)} instead of {token_id}"
            )
    bos = tokenizer.bos_token_id
    if add_bos and bos is not None and tokenizer.id_to_token(bos) in tokenizer.special_tokens:
        word = tokenizer.id_to_token(bos)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{word}:0 $A:0", pair=f"{word}:0 $A:0 {word}:1 $B:1", special_tokens=[(word, bos)]
        )
    return backend


def differing_texts(tokenizer: SentencePieceTokenizer, backend: Any) -> list[str]:
    """Texts, of a fixed few and the user-defined pieces, to which `backend` gives other ids than SentencePiece."""
    defined = [piece.piece for piece in _read_proto(tokenizer).pieces if piece.type == USER_DEFINED]
    texts = [*PROBES, *(f"{before}{piece}{after}" for piece in defined for before, after in (("", ""), ("a ", " b")))]
    return [text for text in texts if backend.encode(text, add_special_tokens=False).ids != tokenizer.encode(text)]


def merges_of(scores: dict[str, float]) -> list[tuple[str, str]]:
    """All ways to split each piece into two pieces: best joined score first, then longest left part."""
    splits = []
    for piece, score in scores.items():
        for cut in range(len(piece) - 1, 0, -1):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                splits.append((-score, -cut, left, right))
    return [(left, right) for _, _, left, right in sorted(splits)]


def _read_proto(tokenizer: SentencePieceTokenizer) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(tokenizer.path.read_bytes())
    except Exception as error:  # protobuf's DecodeError has no public home that is stable
        raise ConvertError(f"{tokenizer.path}: not a SentencePiece model ({error})") from None
    return proto


def _model(proto: Any, tokenizer: SentencePieceTokenizer) -> Any:
    kind, unknown = proto.trainer_spec.model_type, proto.pieces[proto.trainer_spec.unk_id].piece
    byte_fallback = bool(proto.trainer_spec.byte_fallback)
    if kind == UNIGRAM:
        pieces = [(piece.piece, piece.score) for piece in proto.pieces]
        return models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=byte_fallback)
    if kind == BPE:
        vocabulary = {piece.piece: i for i, piece in enumerate(proto.pieces)}
        scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
        return models.BPE(vocabulary, merges_of(scores), unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)
    raise ConvertError(
        f"{tokenizer.path}: model type {kind} of SentencePiece has no counterpart in tokenizer.json (only BPE, unigram)"
    )


def _normalizer(spec: Any) -> Any:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [
            normalizers.Replace(tokenizers.Regex(p), by) for p, by in ((r"\A +", ""), (r" +\z", ""), (" {2,}", " "))
        ]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
