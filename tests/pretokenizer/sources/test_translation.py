"""Translation requests are drawn at random, with earlier exchanges from the same side of the split."""

import random
from typing import Any

import pytest

from pretokenizer.sources import make_source
from pretokenizer.sources.source import BadRecord, InputRecord
from pretokenizer.sources.translation import TEMPLATES
from tests.pretokenizer.sources.conftest import Convert


def rows(count: int) -> list[dict[str, Any]]:
    return [{"translation": {"zh": f"中{i}", "en": f"en {i} {{}}", "ja": f"日{i}"}} for i in range(count)]


def test_direction_and_template_are_drawn_row_by_row(convert: Convert) -> None:
    rng = random.Random(7)
    expected = []
    for i in range(30):
        texts = {"zh": f"中{i}", "en": f"en {i} {{}}"}
        source, target = ("zh", "en") if rng.random() > 0.5 else ("en", "zh")
        template = rng.choice(TEMPLATES[target])
        expected.append((template.replace("{}", texts[source]), texts[target]))
    found = convert("wmt2019_zh-en", rows(30), seed=7)
    assert [(c[0][-2][1], c[0][-1][1]) for c in found] == expected
    assert {len(templates) for templates in TEMPLATES.values()} == {6, 3} and len(TEMPLATES["en"]) == 3


def test_a_fifth_has_a_different_neighbour_in_front(convert: Convert) -> None:
    found = convert("wmt2019_zh-en", rows(400))
    with_history = [i for i, c in enumerate(found) if len(c[0]) == 4]
    assert all(len(c[0]) in (2, 4) for c in found) and 50 < len(with_history) < 110
    last_pairs = [tuple(c[0][-2:]) for c in found]
    for i in with_history:
        earlier = last_pairs.index(tuple(found[i][0][:2]))
        assert earlier != i and abs(earlier - i) <= 5


@pytest.mark.parametrize("bad", [{}, {3: "\ud800", 50: "\ud800", 120: "\ud800"}])
def test_history_never_crosses_the_split(bad: dict[int, str]) -> None:
    source = make_source("ted_trans_zh-ja", {}, 0.5)
    records = rows(200)
    for row, text in bad.items():
        records.insert(row, {"translation": {"zh": text, "ja": text}})
    items = [InputRecord(0, i, "train", record) for i, record in enumerate(records)]
    converted_all = [converted for _, converted in source.convert_all(items, random.Random(1))]
    found = [converted for converted in converted_all if isinstance(converted, list)]
    assert [c for c in converted_all if not isinstance(c, list)] == [BadRecord("broken Unicode")] * len(bad)
    from pretokenizer.sources.splits import split_sklearn

    val = set(split_sklearn(200, 0.5)[1].tolist())  # type: ignore[union-attr]
    pairs = [c[0].messages[-2:] for c in found]
    for i, converted in enumerate(found):
        if len(converted[0].messages) == 4:
            assert (pairs.index(converted[0].messages[:2]) in val) == (i in val)
