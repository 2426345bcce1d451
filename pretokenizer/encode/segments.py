"""Find the token at a byte position of an encoded text. The text has marks (engine.py) at known positions.

A segment is the text from one mark to the next. The lengths of its tokens must add up to the length of its text. Then
the running sums of the lengths show which token covers a position, and no position has to be computed for each token.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretokenizer.encode.token_roles import Numbers, TokenRoles, token_roles


class Segments(NamedTuple):
    """An encoded text of T tokens, cut at its M marks. It maps byte positions to tokens, and so gives tokens roles."""

    marks: Numbers
    """(M,) index of the token of each mark."""
    begins: Numbers
    """(M,) position of the first byte after each mark."""
    has_prefix: NDArray[np.bool_]
    """(M,) whether the first token of the segment begins with a `▁` that is not in the text."""
    before: Numbers
    """(T + 1,) sum of the lengths of the tokens before each token, in bytes."""
    is_wrong: NDArray[np.bool_]
    """(M,) whether the lengths of the segment's tokens fail to add up to its text. Its positions are then invalid."""

    def first_tokens(self, positions: Numbers) -> Numbers:
        """Return for each byte position the index of the first token that begins at it or after it."""
        segment = np.searchsorted(self.begins, positions, side="right") - 1
        offsets = positions - self.begins[segment]
        offsets += self.has_prefix[segment] & (offsets > 0)
        found = np.searchsorted(self.before, self.before[self.marks[segment] + 1] + offsets)
        next_marks = np.append(self.marks[1:], self.before.size - 1)
        return np.minimum(found, next_marks[segment])

    def bounds(self, tokens: Numbers) -> tuple[Numbers, Numbers]:
        """Return the byte positions at which the given tokens begin and end. None of them may be a mark."""
        segment = np.searchsorted(self.marks, tokens, side="right") - 1
        first = self.marks[segment] + 1
        shift = self.begins[segment] - self.before[first] - self.has_prefix[segment]
        begins = np.maximum(self.before[tokens] + shift, self.begins[segment])
        return begins, self.before[tokens + 1] + shift

    def roles(self, piece_ends: Numbers, piece_roles: NDArray[np.uint8], touching: bool) -> TokenRoles:
        """Return the role of each of the T tokens; `token_roles` documents the rule and the arguments.

        No piece may begin or end inside a mark.
        """
        firsts = self.first_tokens(piece_ends)
        firsts[-1] = self.before.size - 1
        roles = np.repeat(piece_roles, np.diff(firsts, prepend=0))
        last = firsts[:-1] - 1  # the last token that begins in each piece but the final one
        begins, ends = self.bounds(last)
        crossing = np.unique(last[ends > piece_ends[:-1]])
        begins, ends = self.bounds(crossing)
        found = token_roles(begins, ends, piece_ends, piece_roles, touching)
        roles[crossing] = found.roles
        return TokenRoles(roles, crossing[found.straddling])


def segments_of(lengths: Numbers, marks: Numbers, mark_begins: Numbers, num_bytes: int) -> Segments:
    """Return the segments of an encoded text of `num_bytes` bytes in UTF-8.

    `lengths` (T,) are the lengths of its tokens in bytes. The marks have the token indices `marks` (M,) and begin at
    `mark_begins` (M,). The first token is a mark.
    """
    begins = mark_begins + lengths[marks]
    before = np.append(0, np.cumsum(lengths))
    ends = np.append(marks[1:], lengths.size)
    excess = before[ends] - before[marks + 1] - (np.append(mark_begins[1:], num_bytes) - begins)
    has_prefix = excess == 1
    is_wrong = (excess != 0) & ~has_prefix
    if is_wrong.any():  # no token of these segments has a known place, and `before` must not decrease
        sizes = np.diff(marks, append=lengths.size)
        is_known = np.repeat(~is_wrong, sizes)
        is_known[marks] = True
        before = np.append(0, np.cumsum(lengths * is_known))
    return Segments(marks, begins, has_prefix, before, is_wrong)
