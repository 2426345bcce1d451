"""The role of every token of a document, from the characters (or bytes) that it covers.

A token has the role of its first character. A token gets loss only if all of its characters have loss, because the
model never writes a token that begins in the prompt. A token straddles if some characters have loss but it gets none.
With `--template_loss marks` the rule is that of transformers' `assistant_masks`: a token gets loss if any of its
characters is marked.

    pieces: `assistant\\n` without loss, `Hi` with loss     a token `\\nHi` straddles, but with marks it gets loss
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.roles import Role

Numbers = NDArray[np.int64]
_NONE: Numbers = np.empty(0, dtype=np.int64)


class TokenRoles(NamedTuple):
    """The roles of N tokens."""

    roles: NDArray[np.uint8]
    """(N,) role id of each token."""
    straddling: Numbers
    """(S,) indices of the tokens that get no loss although some of their characters have loss."""


def token_roles(
    begins: Numbers, ends: Numbers, piece_ends: Numbers, piece_roles: NDArray[np.uint8], touching: bool
) -> TokenRoles:
    """Return the role of each of N tokens, and which of them straddle.

    Token i covers the characters `begins[i]` to `ends[i]`. The text consists of P pieces: piece j ends at
    `piece_ends[j]` and has the role `piece_roles[j]`. With `touching`, one character with loss suffices for a token.

    >>> token_roles(np.array([0, 3]), np.array([3, 5]), np.array([4, 5]), np.array([1, 2], dtype=np.uint8), False)
    TokenRoles(roles=array([1, 1], dtype=uint8), straddling=array([1]))
    """
    if not piece_ends.size:
        return TokenRoles(np.zeros(begins.size, dtype=np.uint8), _NONE)
    at = np.minimum(np.searchsorted(piece_ends, begins, side="right"), piece_ends.size - 1)
    roles = piece_roles[at]
    crossing = np.flatnonzero(ends > piece_ends[at])
    if not crossing.size:
        return TokenRoles(roles, _NONE)
    lengths = np.diff(piece_ends, prepend=0) * (piece_roles == Role.ASSISTANT)
    bounds, loss = np.append(0, piece_ends), np.append(0, np.cumsum(lengths))
    covered = np.interp(ends[crossing], bounds, loss) - np.interp(begins[crossing], bounds, loss)
    has_loss = covered > 0 if touching else covered == ends[crossing] - begins[crossing]
    quiet = np.where(roles[crossing] == Role.ASSISTANT, np.uint8(Role.ASSISTANT_NO_LOSS), roles[crossing])
    roles[crossing] = np.where(has_loss, np.uint8(Role.ASSISTANT), quiet)
    return TokenRoles(roles, crossing[(covered > 0) & ~has_loss])


def runs_of(roles: NDArray[np.uint8], document_sizes: Numbers) -> tuple[Numbers, Numbers, NDArray[np.uint8]]:
    """Cut each document into runs of tokens of one role. `roles` has the role of every token of the joined documents.

    Return (runs of each document, tokens of each run, role of each run). An empty document has one run without tokens.
    """
    ends = np.cumsum(document_sizes)
    is_start = np.ones(roles.size, dtype=np.bool_)
    np.not_equal(roles[1:], roles[:-1], out=is_start[1:])
    is_start[(ends - document_sizes)[document_sizes > 0]] = True
    starts = np.flatnonzero(is_start)
    sizes = np.diff(starts, append=roles.size)
    documents = np.searchsorted(ends, starts, side="right")
    counts = np.bincount(documents, minlength=document_sizes.size).astype(np.int64)
    run_roles = roles[starts]
    if empty := np.flatnonzero(document_sizes == 0).tolist():
        at = (np.cumsum(counts) - counts)[empty]
        sizes, run_roles = np.insert(sizes, at, 0), np.insert(run_roles, at, np.uint8(Role.SYSTEM))
        counts[empty] = 1
    return counts, sizes, run_roles
