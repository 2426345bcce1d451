"""encode/segments.py: the roles of tokens from the lengths of tokens, literally and beside the rule for each token."""

import numpy as np

from pretokenizer.encode.segments import segments_of
from pretokenizer.encode.token_roles import token_roles

SYSTEM, USER, REPLY, QUIET = 0, 1, 2, 4


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_roles_of_two_segments() -> None:
    """Text `#ab cd#ef`, tokens `#`, `▁ab`, ` c`, `d`, `#`, `▁e`, `f`: both segments begin with a `▁` of their own."""
    segments = segments_of(numbers(1, 3, 2, 1, 1, 2, 1), numbers(0, 4), numbers(0, 6), 9)
    assert segments.has_prefix.tolist() == [True, True] and not segments.is_wrong.any()
    assert segments.first_tokens(numbers(1, 3, 4, 6, 7, 8, 9)).tolist() == [1, 2, 3, 4, 5, 6, 7]
    piece_ends, piece_roles = numbers(1, 3, 7, 8, 9), np.array([SYSTEM, USER, REPLY, USER, REPLY], dtype=np.uint8)
    assert segments.roles(piece_ends, piece_roles, False).roles.tolist() == [
        SYSTEM,
        USER,
        REPLY,
        REPLY,
        REPLY,
        USER,
        REPLY,
    ]


def test_a_token_across_a_border_gets_no_loss_unless_marks_count() -> None:
    """Text `#abcd`, tokens `#`, `abc`, `d`; the reply is `cd`."""
    segments = segments_of(numbers(1, 3, 1), numbers(0), numbers(0), 5)
    piece_ends, piece_roles = numbers(1, 3, 5), np.array([SYSTEM, USER, REPLY], dtype=np.uint8)
    assert segments.roles(piece_ends, piece_roles, False).roles.tolist() == [SYSTEM, USER, REPLY]
    assert segments.roles(piece_ends, piece_roles, True).roles.tolist() == [SYSTEM, REPLY, REPLY]
    backwards = np.array([SYSTEM, REPLY, USER], dtype=np.uint8)
    assert segments.roles(piece_ends, piece_roles, False).straddling.tolist() == [1]
    assert segments.roles(piece_ends, piece_roles, True).straddling.tolist() == []
    assert segments.roles(piece_ends, backwards, False).straddling.tolist() == [1]
    assert segments.roles(piece_ends, backwards, False).roles.tolist() == [SYSTEM, QUIET, USER]


def test_a_wrong_segment_is_reported_and_does_not_disturb_the_others() -> None:
    """The token of length -100 stands for no fixed text, so its segment adds up to nothing."""
    segments = segments_of(numbers(1, 2, 1, -100, 1, 2, 2), numbers(0, 2, 4), numbers(0, 3, 9), 14)
    assert segments.is_wrong.tolist() == [False, True, False]
    piece_ends = numbers(1, 2, 3, 4, 7, 9, 10, 12, 14)
    piece_roles = np.array([SYSTEM, USER, REPLY, SYSTEM, USER, REPLY, SYSTEM, USER, REPLY], dtype=np.uint8)
    found = segments.roles(piece_ends, piece_roles, False).roles
    assert found[[0, 1, 4, 5, 6]].tolist() == [SYSTEM, USER, SYSTEM, USER, REPLY]


def test_roles_are_those_of_the_rule_for_each_token() -> None:
    """Random texts of marks (3 bytes) and tokens (1 to 4 bytes); pieces end anywhere outside the marks."""
    rng = np.random.default_rng(7)
    for _ in range(300):
        lengths, marks, mark_begins, begins, ends, borders = [], [], [], [], [], []
        at = 0
        for _ in range(rng.integers(1, 5)):
            marks.append(len(lengths))
            mark_begins.append(at)
            lengths.append(3)
            begins.append(at)
            at += 3
            ends.append(at)
            borders.append(at)
            first = at
            sizes = rng.integers(1, 5, size=rng.integers(0, 6)).tolist()
            has_prefix = bool(sizes) and rng.random() < 0.5
            for number, size in enumerate(sizes):
                own = size - 1 if has_prefix and number == 0 else size
                lengths.append(size)
                begins.append(at)
                at += own
                ends.append(at)
            borders += sorted(rng.integers(first, at + 1, size=rng.integers(0, 5)).tolist())
            borders.append(at)
        piece_ends = numbers(*borders)
        piece_roles = rng.choice([SYSTEM, USER, REPLY], size=len(borders)).astype(np.uint8)
        segments = segments_of(numbers(*lengths), numbers(*marks), numbers(*mark_begins), at)
        assert not segments.is_wrong.any()
        for touching in (False, True):
            expected = token_roles(numbers(*begins), numbers(*ends), piece_ends, piece_roles, touching)
            is_text = np.ones(len(lengths), dtype=bool)
            is_text[marks] = False
            found = segments.roles(piece_ends, piece_roles, touching)
            assert np.array_equal(found.roles[is_text], expected.roles[is_text])
            assert np.array_equal(found.straddling, expected.straddling)
