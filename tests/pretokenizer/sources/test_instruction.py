"""The instruction sources order, join and filter records."""

import random

import pytest

from pretokenizer.sources import make_source
from pretokenizer.sources.text_filters import PHRASES, has_filtered_phrase
from tests.pretokenizer.sources.conftest import Convert


def test_pairs_and_what_is_left_out(convert: Convert) -> None:
    records = [
        {"USER": " q ", "ASSISTANT": "a\n"},
        {"USER": None, "ASSISTANT": "a"},
        {"USER": "q", "ASSISTANT": " \n"},
        {"USER": "q", "ASSISTANT": "As an AI language model, no."},
        {"USER": "tell me of OpenAI", "ASSISTANT": "a"},
    ]
    expected = [[[("user", " q "), ("assistant", "a\n")]], "blank", "blank", "filtered phrase", "filtered phrase"]
    assert convert("megacode2", records) == expected


def test_columns_by_name(convert: Convert) -> None:
    pair = [[("user", "q"), ("assistant", "a")]]
    assert convert("oa_leet10k", [{"INSTRUCTION": "q", "RESPONSE": "a"}]) == [pair]
    options = {"instruction_column": "in", "response_column": "out"}
    assert convert("megacode3", [{"in": "q", "out": "a"}], **options) == [pair]


def test_rows_are_visited_in_shuffled_order() -> None:
    expected = list(range(10))
    random.Random(42).shuffle(expected)
    assert make_source("oa_leet10k", {}).order(10) == expected == [7, 3, 2, 8, 5, 6, 9, 4, 0, 1]


def test_rows_are_joined_until_long_enough(convert: Convert) -> None:
    records = [{"INSTRUCTION": f"q{i}", "RESPONSE": "a" * 8} for i in range(10)]
    found = convert("oa_leet10k", records, fill_min_length=20)
    assert [[text for _, text in conversation[0] if text.startswith("q")] for conversation in found] == [
        ["q7", "q3", "q2"],
        ["q8", "q5", "q6"],
        ["q9", "q4", "q0"],
        ["q1"],
    ]


def test_a_wrong_text_is_not_joined_to_good_ones(convert: Convert) -> None:
    records = [{"INSTRUCTION": f"q{i}", "RESPONSE": "a" * 8} for i in range(10)]
    records[3]["RESPONSE"] = "\ud800"
    found = convert("oa_leet10k", records, fill_min_length=20)
    assert found[0] == "bad: broken Unicode"
    assert [text for c in found[1:] for _, text in c[0] if text.startswith("q")] == [
        f"q{i}" for i in (7, 2, 8, 5, 6, 9, 4, 0, 1)
    ]


@pytest.mark.parametrize("phrase", PHRASES)
def test_every_phrase_is_found_in_any_case(phrase: str) -> None:
    assert has_filtered_phrase(f"so {phrase.upper()} so")


@pytest.mark.parametrize("text", ["", "it was an AI said", "hasty aim", "As an AI.", "I cannot. As a neutral party"])
def test_no_phrase(text: str) -> None:
    assert has_filtered_phrase(text) is (text == "it was an AI said")


def test_alpaca_counts_filtered_rows_and_keeps_empty_texts(convert: Convert) -> None:
    records = [
        {"instruction": "do", "input": "this", "output": "done"},
        {"instruction": "", "input": "", "output": ""},
        {"instruction": "i am an", "input": "ai ", "output": "x"},
        {"instruction": "as an", "input": "ai thing", "output": "as an AI model"},
    ]
    assert convert("alpaca", records) == [
        [[("user", "do\nthis"), ("assistant", "done")]],
        [[("user", ""), ("assistant", "")]],
        [[("user", "i am an\nai "), ("assistant", "x")]],
        [],
    ]
