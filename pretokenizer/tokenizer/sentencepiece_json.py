"""Convert a SentencePiece model to the contents of a `tokenizer.json`, for readers that know only that format. (SHARED)

    contents = tokenizer_json(tokenizer)       # the model, its special tokens, BOS in front
    contents = describe(tokenizer)             # the model alone
    contents["added_tokens"] = [added_token("<|im_end|>", 32006)]

SentencePiece's BPE joins the two neighbours whose joined piece has the best score, leftmost first; `tokenizers` joins
the pair of lowest rank. So every cut of a piece into two other pieces is a merge, ranked by the piece's score. Among
equal scores the longest left part comes first: in a run of spaces it is the pair that SentencePiece meets first.
Ranking by id, as some converters do, encodes runs of spaces differently. Control pieces such as `</s>` have no merges,
because SentencePiece never reads them from text.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from pretokenizer.tokenizer.base import TokenizerError
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

SPACE = "▁"
NORMAL, USER_DEFINED, UNUSED = 1, 4, 5
"""Types of pieces: values of `SentencePiece.type` in sentencepiece_model.proto."""
UNIGRAM, BPE = 1, 2
"""Types of models: values of `TrainerSpec.model_type` in sentencepiece_model.proto."""


class UnsupportedModelError(TokenizerError):
    """A SentencePiece model has a feature that `tokenizer.json` cannot express."""


def tokenizer_json(tokenizer: SentencePieceTokenizer, add_bos: bool = True, add_eos: bool = False) -> dict[str, Any]:
    """Return the complete contents of a `tokenizer.json`: model, added tokens, and the rule that adds BOS and EOS.

    User-defined pieces become added tokens, because SentencePiece finds them before it merges anything. `<unk>` is no
    special token: spelled in a text, it stays text. Raises UnsupportedModelError for the models that `describe`
    refuses.
    """
    contents = describe(tokenizer)
    defined = {
        tokenizer.pieces[i]: i for i, piece in enumerate(read_model(tokenizer).pieces) if piece.type == USER_DEFINED
    }
    tokens = sorted({**defined, **tokenizer.special_tokens}.items(), key=lambda item: item[1])
    contents["added_tokens"] = [added_token(token, i, special=token in tokenizer.special_tokens) for token, i in tokens]
    special = {i: token for token, i in tokenizer.special_tokens.items()}
    bos = special.get(-1 if tokenizer.bos_token_id is None else tokenizer.bos_token_id) if add_bos else None
    eos = special.get(tokenizer.eos_token_id) if add_eos else None
    if bos or eos:
        contents["post_processor"] = template_processor(tokenizer, bos, eos)
    return contents


def describe(tokenizer: SentencePieceTokenizer, exact: bool = False) -> dict[str, Any]:
    """Return the model as a `tokenizer.json` object without added tokens or post-processor.

    With `exact`, refuse a model with a feature for which BPE merges can give other ids than SentencePiece. Raises
    UnsupportedModelError for a refused model, for types other than BPE and unigram, and for whitespace as a suffix.
    """
    model = read_model(tokenizer)
    pieces = tokenizer.pieces
    scores = [piece.score for piece in model.pieces]
    types = [piece.type for piece in model.pieces]
    if exact and (features := _inexact_features(model, pieces, types)):
        raise UnsupportedModelError(f"the model {', '.join(features)}")
    if model.trainer_spec.treat_whitespace_as_suffix:
        raise UnsupportedModelError(f"{tokenizer.path}: whitespace as a suffix has no counterpart in tokenizer.json")
    if model.trainer_spec.model_type == UNIGRAM:
        vocabulary = _unigram(model.trainer_spec, pieces, scores)
    elif model.trainer_spec.model_type == BPE:
        normal = {piece: score for piece, score, kind in zip(pieces, scores, types, strict=True) if kind == NORMAL}
        vocabulary = _bpe(model.trainer_spec, pieces, normal)
    else:
        kind = model.trainer_spec.model_type
        raise UnsupportedModelError(f"{tokenizer.path}: SentencePiece model type {kind} is neither BPE nor unigram")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model.normalizer_spec)},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(model.normalizer_spec)},
        "model": vocabulary,
    }


def read_model(tokenizer: SentencePieceTokenizer) -> Any:
    """Return the tokenizer's model file as a `ModelProto` message.

    Raises UnsupportedModelError if it cannot be parsed.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    try:
        return sentencepiece_model_pb2.ModelProto.FromString(tokenizer.path.read_bytes())
    except DecodeError as error:
        raise UnsupportedModelError(f"{tokenizer.path}: not a SentencePiece model ({error})") from None


def added_token(content: str, token_id: int, special: bool = True) -> dict[str, Any]:
    """Return an item for the `added_tokens` of a `tokenizer.json`. It matches `content` anywhere in a text."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": token_id, "content": content, **flags}


def template_processor(tokenizer: SentencePieceTokenizer, bos: str | None, eos: str | None) -> dict[str, Any]:
    """Return a `post_processor` that puts `bos` before each text and `eos` after it, each unless it is None."""

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        first, last = ([{"SpecialToken": {"id": token, "type_id": type_id}}] if token else [] for token in (bos, eos))
        return [*first, {"Sequence": {"id": sequence, "type_id": type_id}}, *last]

    tokens = [token for token in (bos, eos) if token]
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {
            token: {"id": token, "ids": [tokenizer.special_tokens[token]], "tokens": [token]} for token in tokens
        },
    }


def ranked_merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return every way to cut a piece into two other pieces (left, right), in the order of BPE merges.

    `scores` maps pieces to scores. Cuts of a piece with a higher score come first, then those of a longer piece, then
    those with a longer left part.

    >>> ranked_merges({"ab": -1, "aba": -2, "a": -9, "b": -9})
    [('a', 'b'), ('ab', 'a')]
    """
    return [
        (left, right)
        for piece in sorted(scores, key=lambda piece: (-scores[piece], -len(piece)))
        for cut in range(len(piece) - 1, 0, -1)
        if (right := piece[cut:]) in scores and (left := piece[:cut]) in scores
    ]


def _inexact_features(model: Any, pieces: Sequence[str], types: Sequence[int]) -> list[str]:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    features = {
        "is not of type BPE": trainer.model_type != BPE,
        "has no byte fallback": not trainer.byte_fallback,
        "normalises characters": bool(normalizer.precompiled_charsmap),
        "removes whitespace": normalizer.remove_extra_whitespaces,
        "does not escape spaces": not normalizer.escape_whitespaces,
        "has user-defined or unused pieces": USER_DEFINED in types or UNUSED in types,
        "has a piece twice": len({*pieces}) < len(pieces),
    }
    return [feature for feature, is_present in features.items() if is_present]


def _unigram(trainer: Any, pieces: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": trainer.unk_id,
        "vocab": list(zip(pieces, scores, strict=True)),
        "byte_fallback": trainer.byte_fallback,
    }


def _bpe(trainer: Any, pieces: Sequence[str], normal: Mapping[str, float]) -> dict[str, Any]:
    """Return the BPE `model` of a `tokenizer.json`. `normal` maps the pieces that merges may build to their scores."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": pieces[trainer.unk_id],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": trainer.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": ranked_merges(normal),
    }


def _normalizers(spec: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        edges_and_runs = ((r"\A +", ""), (r" +\z", ""), (" {2,}", " "))
        steps += [{"type": "Replace", "pattern": {"Regex": run}, "content": by} for run, by in edges_and_runs]
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]


def _decoders(spec: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if spec.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps
