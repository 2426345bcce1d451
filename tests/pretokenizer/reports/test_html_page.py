"""The HTML report needs no other file, and shows hostile text as text."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pretokenizer.chat.roles import Role
from pretokenizer.config.settings import RunOptions
from pretokenizer.reports.html_page import render_html
from pretokenizer.tokenizer.base import Tokenizer
from tests.browser import PHONE_WIDTH, look_at, needs_chromium
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl


class Balance(HTMLParser):
    """Collects every address in a page and the tags that are still open, which must be none at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str | None] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add a start tag and its addresses."""
        self.scripts += tag == "script"
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Remove the last start tag, which must have the same name."""
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_shows_hostile_text_as_text(build_toy: BuildToy, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> \x1b[31m `x` | &amp;"
    records = [{"messages": [{"role": "user", "content": evil}, {"role": "assistant", "content": "b"}], "<b>": 1}]
    write_jsonl(tmp_path / "data/messages/train.jsonl", records)
    _, folder = build_toy([{"messages": {"val_split": 0}}])
    page = (folder / "stats.html").read_text()
    parser = Balance()
    parser.feed(page)
    assert (parser.open, parser.scripts, parser.addresses) == ([], 0, [])
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\x1b[31m `x` | &amp;amp;" in page
    assert "<h2>Records</h2>" in page


@needs_chromium
@pytest.mark.parametrize("is_dark", [False, True])
def test_the_page_fits_a_phone_and_is_readable_in_both_colour_schemes(
    build_toy: BuildToy, tmp_path: Path, is_dark: bool
) -> None:
    """Tables of eleven columns scroll in their own box, and long names do not make the page wider."""
    long = "x" * 120
    roles = ("system", "user", "assistant", "tool", "assistant")
    turns = [{"role": role, "content": f"{role} {long}"} for role in roles]
    turns.append({"role": "assistant", "content": "no loss", "train": False})
    write_jsonl(tmp_path / f"data/messages/{long}.jsonl", [{"messages": turns, f"key_{long}": 1}, {"messages": 1}])
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(40))
    options = RunOptions(max_bad_fraction=1)
    _, folder = build_toy(["gsm8k", {"messages": {"val_split": 0}}], options, output_dir=str(tmp_path / long))
    page = folder / "stats.html"
    assert f"key_{long}" in page.read_text()
    look = look_at(page, tmp_path / "browser", PHONE_WIDTH, is_dark)
    assert look.is_dark == is_dark
    assert look.scroll_width <= PHONE_WIDTH
    assert look.num_texts > 300
    assert look.faint == []
    assert look.errors == []


def test_runs_of_one_role_are_coloured(sample_tokenizer: Tokenizer) -> None:
    ids = sample_tokenizer.encode_plain("a<b")
    roles = np.array([Role.USER] + [Role.ASSISTANT] * (len(ids) - 1))
    shown = render_html(np.array(ids), roles, sample_tokenizer)
    assert shown.count("<span") == 2
    assert '<span class="loss" style="color:var(--assistant)" title="assistant">' in shown
    assert "&lt;b</span>" in shown
