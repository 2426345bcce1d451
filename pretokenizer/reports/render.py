"""Render a document as text in which a colour or brackets mark each run of tokens of one role."""

import re
from itertools import pairwise
from typing import Any

import numpy as np

from pretokenizer.chat.roles import Role
from pretokenizer.tokenizer.base import Tokenizer

# A terminal obeys control characters, the 8-bit ones too. Tab and line feed are harmless.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOURS = {
    Role.SYSTEM: "35",
    Role.USER: "36",
    Role.ASSISTANT: "32;4",
    Role.CONTEXT: "33",
    Role.ASSISTANT_NO_LOSS: "31",
    Role.TOOL: "34",
}


def escape_controls(text: str) -> str:
    """Return a text with its control characters escaped, as `\\x1b`, so that a terminal does not obey them.

    Tabs and line feeds stay.
    """
    return _CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def render_document(ids: Any, roles: Any, tokenizer: Tokenizer, plain: bool) -> str:
    """Return the text of a document with N tokens, with roles marked by brackets if `plain`, else by colours.

    `ids` and `roles` are arrays of shape (N,). Control characters in the data are shown escaped, as `\\x1b`.
    """
    pieces = []
    bounds = [0, *(np.flatnonzero(np.diff(roles)) + 1).tolist(), len(roles)] if len(roles) else [0]
    for begin, end in pairwise(bounds):
        role = Role(int(roles[begin]))
        text = escape_controls(tokenizer.decode(ids[begin:end].tolist()))
        if plain:
            mark = "*" if role.gets_loss else ""
            pieces.append(f"[{role.name.lower()}{mark}:{end - begin} {text}]")
        else:
            lines = text.split("\n")
            pieces.append("\n".join(f"\033[{_COLOURS[role]}m{line}\033[0m" if line else "" for line in lines))
    return "".join(pieces)
