import numpy as np
import pytest

from pretokenizer.chat.roles import Role
from pretokenizer.reports.render import render_document
from pretokenizer.tokenizer.base import Tokenizer


@pytest.mark.parametrize("plain", [True, False])
def test_control_characters_of_the_data_are_shown_escaped(plain: bool, sample_tokenizer: Tokenizer) -> None:
    ids = sample_tokenizer.encode_plain("a\x1b]0;t\x07\x9b\x7f\x00\tb\nc")
    shown = render_document(np.array(ids), np.full(len(ids), Role.USER), sample_tokenizer, plain)
    expected = "a\\x1b]0;t\\x07\\x9b\\x7f\\x00\tb"
    assert expected in shown and shown.count("\x1b") == (0 if plain else 4)
