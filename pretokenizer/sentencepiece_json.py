"""A SentencePiece BPE model as `tokenizer.json` contents, for engines that read only those.

SentencePiece merges the neighbours whose joined piece has the best score. Written as ranked merges: every way to cut a
piece into two others is a merge, ranked by the piece's score; of equal scores the longer left part first. (Ranking by
id, as some converters do, gives other ids for runs of spaces.) What this is used for is proved against sentencepiece
itself.
"""

import json
import struct
from bisect import bisect_left, bisect_right
from collections import Counter
from operator import itemgetter
from typing import Any

from pretokenizer.tokenizer import SentencePieceTokenizer

# Field numbers in sentencepiece_model.proto.
_TRAINER_SPEC, _NORMALIZER_SPEC = 2, 3
_MODEL_TYPE, _SUFFIX_WHITESPACE, _BYTE_FALLBACK = 3, 24, 35
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_WHITESPACES, _ESCAPE_WHITESPACES = 2, 3, 4, 5
_BPE = 2
_SHORT_PIECE_KEY = 1 << 3 | 2
"""Tag of a piece, the first field, length-delimited; nearly all are shorter than 128 bytes."""

Fields = dict[int, int | bytes]


class UnsupportedModelError(ValueError):
    """A model that this form cannot express exactly."""


def tokenizer_json(tokenizer: SentencePieceTokenizer) -> bytes:
    """`tokenizer.json` with the wrapper's special tokens. Raises UnsupportedModelError."""
    add_dummy_prefix = has_dummy_prefix(tokenizer.path.read_bytes())
    processor, pieces = tokenizer.processor, tokenizer.tokens[: tokenizer.num_pieces]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    scores = [processor.GetScore(i) for i in range(len(pieces))]
    special = {token: i for token, i in tokenizer.special_tokens.items() if i >= len(pieces)}
    special |= {piece: i for piece, i in vocabulary.items() if piece and processor.IsControl(i)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spaces: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    prefix: list[dict[str, Any]] = [{"type": "Prepend", "prepend": "▁"}] if add_dummy_prefix else []
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, **flags} for token, i in sorted(special.items(), key=lambda t: t[1])
        ],
        "normalizer": {"type": "Sequence", "normalizers": prefix + spaces},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[processor.unk_id()],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": ranked_merges(vocabulary, scores),
        },
    }
    return _dump(described)


def ranked_merges(vocabulary: dict[Any, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every cut of every piece into two others, by score, then longer left part, then longer right part.

    >>> ranked_merges({"a": 0, "b": 1, "ab": 2, "aba": 3}, [-9, -9, -1, -2])
    [('a', 'b'), ('ab', 'a')]
    """
    by_score = sorted([(-scores[i], piece) for piece, i in vocabulary.items() if len(piece) > 1], key=itemgetter(0))
    cuts = [
        (score, left, right)
        for score, piece in by_score
        for i in range(len(piece) - 1, 0, -1)
        if (left := piece[:i]) in vocabulary and (right := piece[i:]) in vocabulary
    ]
    for tied in [score for score, count in Counter([score for score, _ in by_score]).items() if count > 1]:
        first, last = bisect_left(cuts, tied, key=itemgetter(0)), bisect_right(cuts, tied, key=itemgetter(0))
        cuts[first:last] = sorted(
            cuts[first:last], key=lambda cut: (-len(cut[1]), -len(cut[2]), vocabulary[cut[1]], vocabulary[cut[2]])
        )
    return [(left, right) for _, left, right in cuts]


def has_dummy_prefix(data: bytes) -> bool:
    """Whether the model puts `▁` in front. Raises UnsupportedModelError for what cannot be expressed."""
    trainer, normalizer = _specs(data)
    wrong = {
        "is not of type BPE": trainer.get(_MODEL_TYPE, 1) != _BPE,
        "has no byte fallback": not trainer.get(_BYTE_FALLBACK, 0),
        "has whitespace as suffix": bool(trainer.get(_SUFFIX_WHITESPACE, 0)),
        "normalises characters": bool(normalizer.get(_CHARSMAP, b"")),
        "removes whitespace": bool(normalizer.get(_REMOVE_WHITESPACES, 1)),
        "does not escape spaces": not normalizer.get(_ESCAPE_WHITESPACES, 1),
    }
    reasons = [reason for reason, is_so in wrong.items() if is_so]
    if reasons:
        raise UnsupportedModelError(f"the model {', '.join(reasons)}")
    return bool(normalizer.get(_DUMMY_PREFIX, 1))


def _specs(data: bytes) -> tuple[Fields, Fields]:
    """Trainer and normaliser specification of a serialised model."""
    found: dict[int, Fields] = {_TRAINER_SPEC: {}, _NORMALIZER_SPEC: {}}
    position = 0
    while position < len(data):
        if data[position] == _SHORT_PIECE_KEY and data[position + 1] < 0x80:
            position += 2 + data[position + 1]  # tens of thousands of them come first
            continue
        key, position = _varint(data, position)
        if key & 7 != 2:
            raise UnsupportedModelError("the model is not a SentencePiece protocol buffer")
        size, position = _varint(data, position)
        if key >> 3 in found:
            found[key >> 3] = _fields(data[position : position + size])
        position += size
    return found[_TRAINER_SPEC], found[_NORMALIZER_SPEC]


def _fields(data: bytes) -> Fields:
    fields: Fields = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        if key & 7 == 0:
            fields[key >> 3], position = _varint(data, position)
        elif key & 7 in (1, 5):
            size = 8 if key & 7 == 1 else 4
            fields[key >> 3], position = (
                struct.unpack("<q" if size == 8 else "<i", data[position : position + size])[0],
                (position + size),
            )
        else:
            size, position = _varint(data, position)
            fields[key >> 3], position = data[position : position + size], position + size
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _dump(value: Any) -> bytes:
    try:
        import orjson
    except ImportError:
        return json.dumps(value, ensure_ascii=False).encode("utf-8")
    return orjson.dumps(value)
