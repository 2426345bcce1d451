"""The dolly sources put a cleaned context before the answer."""

import pytest

from pretokenizer.sources.text_filters import clean_context
from tests.pretokenizer.sources.conftest import Convert


@pytest.mark.parametrize(
    ("context", "cleaned"),
    [
        ("a[1] b[2, 3]c[4,5]", "a bc"),
        ("x[citation needed]y[Citation needed]", "xy[Citation needed]"),
        ("[a][B] [ab] [é]", " [ab] [é]"),
        ("[ 7 ] [1 ,2] []", "[ 7 ] [1 ,2] []"),
        ("[[1]a]", "[a]".replace("[a]", "")),
        (" kept \n", " kept \n"),
    ],
)
def test_cleaning(context: str, cleaned: str) -> None:
    assert clean_context(context) == cleaned


def record(context: object, question: str = "q", answer: str = "a") -> dict[str, object]:
    return {"INSTRUCTION": question, "RESPONSE": answer, "METADATA": {"CONTEXT": context}}


def test_context_stands_before_the_answer(convert: Convert) -> None:
    found = convert("dolly15k", [record("c[1]"), record(""), record(None), record("[1]"), record(" ")])
    plain = [[("user", "q"), ("assistant", "a")]]
    assert found == [
        [[("user", "q"), ("context", "c"), ("assistant", "a")]],
        plain,
        plain,
        plain,
        [[("user", "q"), ("context", " "), ("assistant", "a")]],
    ]


def test_what_is_left_out(convert: Convert) -> None:
    assert convert("dolly15k", [record("", ""), record("", "q", "I'm an AI no")]) == ["blank", "filtered phrase"]


def test_multilingual(convert: Convert) -> None:
    found = convert("dolly15k_multilingual", [{"instruction": "f", "context": "k", "response": "a"}], stem="de")
    assert found == [[[("user", "f"), ("context", "k"), ("assistant", "a")]]]


def test_databricks_own_files(convert: Convert) -> None:
    records = [{"instruction": "q", "context": text, "response": "a", "category": "closed_qa"} for text in ("c[1]", "")]
    assert convert("dolly15k", records) == [
        [[("user", "q"), ("context", "c"), ("assistant", "a")]],
        [[("user", "q"), ("assistant", "a")]],
    ]
