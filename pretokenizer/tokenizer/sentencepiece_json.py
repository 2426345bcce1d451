"""A SentencePiece BPE model as `tokenizer.json` contents, for engines that read only those.

SentencePiece merges the neighbours whose joined piece has the best score. Written as ranked merges: every way to cut a
piece into two others is a merge, ranked by the piece's score; of equal scores the longer left part first. (Ranking by
id, as some converters do, gives other ids for runs of spaces.) Only normal pieces are merged: `</s>` in a text is text.
What this is used for is proved against sentencepiece itself.
"""

import json
import secrets
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretokenizer.encode.batch import ranges
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

# Field numbers in sentencepiece_model.proto.
_TRAINER_SPEC, _NORMALIZER_SPEC = 2, 3
_SCORE, _TYPE = 2, 3
_MODEL_TYPE, _SUFFIX_WHITESPACE, _BYTE_FALLBACK = 3, 24, 35
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_WHITESPACES, _ESCAPE_WHITESPACES = 2, 3, 4, 5
_BPE = 2
_NORMAL, _USER_DEFINED, _UNUSED = 1, 4, 5
_PIECE_KEY, _TEXT_KEY, _SCORE_KEY = 1 << 3 | 2, 1 << 3 | 2, _SCORE << 3 | 5
"""Field number and wire type."""
_BASE = secrets.randbits(64) | 1
"""Random, so that no vocabulary can be made to have two parts of one hash."""
_TABLE_BITS = 20
_TABLE_SHIFT = np.uint64(64 - _TABLE_BITS)

Fields = dict[int, int | bytes]


class UnsupportedModelError(ValueError):
    """A model that this form cannot express exactly."""


class _Model(NamedTuple):
    """A serialised model, taken apart."""

    trainer: Fields
    normalizer: Fields
    piece_starts: list[int]
    """Where each piece's message begins."""
    piece_sizes: list[int]


def tokenizer_json(tokenizer: SentencePieceTokenizer, special: Mapping[str, int]) -> bytes:
    """`tokenizer.json` in which only `special` (token -> id) is special. Raises UnsupportedModelError."""
    data = tokenizer.path.read_bytes()
    model = _take_apart(data)
    add_dummy_prefix = _check(model)
    pieces = tokenizer.tokens[: tokenizer.num_pieces]
    scores, types = _scores_and_types(data, model)
    if np.isin(types, (_USER_DEFINED, _UNUSED)).any():
        raise UnsupportedModelError("the model has user-defined or unused pieces")
    normal = np.flatnonzero(types == _NORMAL)
    if len({*pieces}) < len(pieces):
        raise UnsupportedModelError("the model has a piece twice")
    best_first = normal[np.argsort(-scores[normal], kind="stable")]
    merges = ranked_merges([pieces[i] for i in best_first.tolist()], scores[best_first])
    spaces: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    prefix: list[dict[str, Any]] = [{"type": "Prepend", "prepend": "▁"}] if add_dummy_prefix else []
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special_tokens(special),
        "normalizer": {"type": "Sequence", "normalizers": prefix + spaces},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[tokenizer.processor.unk_id()],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": merges,
        },
    }
    return dump(described)


def special_tokens(special: Mapping[str, int]) -> list[dict[str, Any]]:
    """Token -> id as `added_tokens` entries that are found in any text."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": i, "content": token, **flags} for token, i in special.items()]


def ranked_merges(pieces: Sequence[str], scores: NDArray[np.float32]) -> list[tuple[str, str]]:
    """Every cut of every piece into two others: by the piece's score, then longer left part, then longer right part.

    `pieces` come best score first, those of equal scores in the order of their ids.

    >>> ranked_merges(["ab", "aba", "a", "b"], np.array([-1, -2, -9, -9], dtype=np.float32))
    [('a', 'b'), ('ab', 'a')]
    """
    sizes = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    whole, left, right = _cuts(pieces, sizes)
    level = np.cumsum(np.diff(scores, prepend=scores[:1]) != 0)
    tied = np.flatnonzero((np.bincount(level) > 1)[level[whole]])
    order = np.lexsort(tuple(c[tied] for c in (right, left, -sizes[right], -sizes[left], level[whole])))
    left[tied], right[tied] = left[tied[order]], right[tied[order]]
    get = pieces.__getitem__
    return list(zip(map(get, left.tolist()), map(get, right.tolist()), strict=True))


def _cuts(
    pieces: Sequence[str], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(whole, left, right), (C,) each: all ways to cut a piece into two others, as indices; longest left part first.

    By hashes of all parts at once, because slicing so many strings takes longer than all else here.
    """
    letters = np.frombuffer("".join(pieces).encode("utf-32-le"), dtype=np.uint32)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    # A part's hash is the sum of letter * base ** place, modulo 2 ** 64, the first place 1: from sums over all letters.
    places = np.cumprod(np.full(letters.size, _BASE, dtype=np.uint64))
    to_first = np.cumprod(np.full(letters.size, pow(_BASE, -1, 1 << 64), dtype=np.uint64)) * np.uint64(_BASE)
    sums = np.append(np.uint64(0), np.cumsum((letters + np.uint64(1)) * places))

    def hashes(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        return (sums[ends] - sums[begins]) * to_first[begins]

    known = hashes(starts, ends)
    whole = np.repeat(np.arange(sizes.size), sizes - 1)
    middle = ends[whole] - ranges(np.ones_like(sizes), sizes - 1)
    parts = np.stack([hashes(starts[whole], middle), hashes(middle, ends[whole])])
    is_known = np.zeros(1 << _TABLE_BITS, dtype=bool)  # by the first bits: most parts that are no pieces go at once
    is_known[known >> _TABLE_SHIFT] = True
    likely = np.flatnonzero(is_known[parts >> _TABLE_SHIFT].all(axis=0))
    found = _look_up(known, parts[:, likely])
    both = np.flatnonzero((found >= 0).all(axis=0))
    left, right = found[:, both]
    return whole[likely[both]], left, right


def _look_up(known: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The index in `known` of each of `wanted`, -1 where it is not there. Faster than a search in sorted hashes."""
    found = np.full(wanted.shape, -1)
    left = np.arange(known.size)
    while left.size:  # those that lost their place in the table to another come into the next, by other bits
        table = np.zeros(1 << _TABLE_BITS, dtype=np.int32)
        factor = np.uint64(secrets.randbits(64) | 1)
        places = known[left] * factor >> _TABLE_SHIFT
        table[places] = left
        at = table[wanted * factor >> _TABLE_SHIFT]
        np.copyto(found, at, where=known[at] == wanted)
        left = left[table[places] != left]
    return found


def has_dummy_prefix(data: bytes) -> bool:
    """Whether the model puts `▁` in front. Raises UnsupportedModelError for what cannot be expressed."""
    return _check(_take_apart(data))


def _check(model: _Model) -> bool:
    trainer, normalizer = model.trainer, model.normalizer
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


def _scores_and_types(data: bytes, model: _Model) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    starts, sizes = np.array(model.piece_starts, dtype=np.int64), np.array(model.piece_sizes, dtype=np.int64)
    ends = starts + sizes
    raw = np.frombuffer(data + bytes(2), dtype=np.uint8)
    # Nearly all are normal and consist of just text and score, which takes 5 bytes.
    is_usual = (raw[starts] == _TEXT_KEY) & (sizes == raw[starts + 1] + 7) & (raw[ends - 5] == _SCORE_KEY)
    scores = raw[ends[:, None] + np.arange(-4, 0)].view("<f4")[:, 0]
    types = np.full(starts.size, _NORMAL)
    for i in np.flatnonzero(~is_usual).tolist():
        fields = _fields(data[starts[i] : ends[i]])
        types[i] = fields.get(_TYPE, _NORMAL)
        scores[i] = struct.unpack("<f", struct.pack("<i", fields.get(_SCORE, 0)))[0]
    return scores, types


def _take_apart(data: bytes) -> _Model:
    trainer: Fields = {}
    normalizer: Fields = {}
    starts: list[int] = []
    sizes: list[int] = []
    position = 0
    while position < len(data):
        if data[position] == _PIECE_KEY and data[position + 1] < 0x80:  # nearly all of it
            size = data[position + 1]
            position += 2
            starts.append(position)
            sizes.append(size)
            position += size
            continue
        key, position = _varint(data, position)
        if key & 7 != 2:
            raise UnsupportedModelError("the model is not a SentencePiece protocol buffer")
        size, position = _varint(data, position)
        if key == _PIECE_KEY:
            starts.append(position)
            sizes.append(size)
        elif key >> 3 in (_TRAINER_SPEC, _NORMALIZER_SPEC):
            fields = _fields(data[position : position + size])
            (trainer if key >> 3 == _TRAINER_SPEC else normalizer).update(fields)
        position += size
    return _Model(trainer, normalizer, starts, sizes)


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


def dump(described: dict[str, Any]) -> bytes:
    """JSON, quickly where orjson is there."""
    try:
        import orjson
    except ImportError:
        return json.dumps(described, ensure_ascii=False).encode("utf-8")
    return orjson.dumps(described)
