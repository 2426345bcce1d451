"""Tokens that cross the border of two turns get the literal role."""

import numpy as np
import pytest

from pretokenizer.encode.token_roles import runs_of, token_roles


@pytest.mark.parametrize(
    ("roles", "touching", "expected", "straddling"),
    [
        # the header and the reply share a token, and so do the reply and the next turn
        ([4, 2, 1], False, [4, 4, 2, 4, 1], [1, 3]),
        ([4, 2, 1], True, [4, 2, 2, 2, 1], []),  # as transformers' assistant_masks
        ([1, 3, 0], False, [1, 1, 3, 3, 0], []),
        ([1, 4, 2], False, [1, 1, 4, 4, 2], [3]),
    ],
)
def test_tokens_that_cross_borders(
    roles: list[int], touching: bool, expected: list[int], straddling: list[int]
) -> None:
    begins, ends = np.array([0, 3, 5, 6, 9]), np.array([3, 5, 6, 9, 10])
    found = token_roles(begins, ends, np.array([4, 8, 10]), np.array(roles, dtype=np.uint8), touching)
    assert (found.roles.tolist(), found.straddling.tolist()) == (expected, straddling)


def test_tokens_without_characters_and_empty_pieces() -> None:
    found = token_roles(
        np.array([0, 2, 2]), np.array([2, 2, 3]), np.array([2, 2, 3]), np.array([1, 2, 4], dtype=np.uint8), False
    )
    assert (found.roles.tolist(), found.straddling.tolist()) == ([1, 4, 4], [])
    nothing = token_roles(*(np.zeros(0, dtype=np.int64),) * 3, np.zeros(0, dtype=np.uint8), False)
    assert (nothing.roles.tolist(), nothing.straddling.tolist()) == ([], [])


def test_a_token_over_three_pieces() -> None:
    places = (np.array([0]), np.array([9]), np.array([3, 6, 9]), np.array([1, 2, 1], dtype=np.uint8))
    plain, touching = token_roles(*places, False), token_roles(*places, True)
    assert (plain.roles.tolist(), plain.straddling.tolist()) == ([1], [0])
    assert (touching.roles.tolist(), touching.straddling.tolist()) == ([2], [])


def test_runs_of_roles() -> None:
    roles = np.array([1, 1, 2, 2, 1], dtype=np.uint8)
    counts, sizes, run_roles = runs_of(roles, np.array([3, 0, 2, 0]))
    assert (counts.tolist(), sizes.tolist(), run_roles.tolist()) == (
        [2, 1, 2, 1],
        [2, 1, 0, 1, 1, 0],
        [1, 2, 0, 2, 1, 0],
    )
