"""gsm8k and joke: every record gives one conversation. webgpt: each question is paired with its best answer."""

from typing import Any

from tests.pretokenizer.sources.conftest import Convert


def test_gsm8k_keeps_its_marks(convert: Convert) -> None:
    answer = "48/2 = <<48/2=24>>24\n#### 24"
    assert convert("gsm8k", [{"question": "q", "answer": answer}]) == [[[("user", "q"), ("assistant", answer)]]]


def test_joke(convert: Convert) -> None:
    assert convert("joke", [{"joke": "j", "explaination": "e"}]) == [[[("user", "j"), ("assistant", "e")]]]


def row(question: str, *answers: tuple[str, float]) -> dict[str, Any]:
    (text_0, score_0), (text_1, score_1) = answers
    return {
        "question": {"full_text": question},
        "answer_0": text_0,
        "answer_1": text_1,
        "score_0": score_0,
        "score_1": score_1,
    }


def test_the_best_answer_of_each_question(convert: Convert) -> None:
    records = [
        row("q1", ("a [1, 2]", 0.1), ("b[3]", -0.1)),
        row("q2", ("x", 0.0), ("y", 0.0)),
        row("q1", ("c", 0.5), ("a ", -1.0)),
        row("q3", ("same", 1.0), ("same[4]", 0.0)),
        row("q3", ("[5]", 1.0), ("z", 0.0)),
    ]
    assert convert("webgpt", records) == [
        "no comparison",
        "no comparison",
        [[("user", "q1"), ("assistant", "c")]],
        [[("user", "q2"), ("assistant", "x")]],
    ]


def test_an_answer_seen_again_changes_its_score_and_keeps_its_place(convert: Convert) -> None:
    records = [row("q", ("a", 1.0), ("b", 0.2)), row("q", ("a", 0.2), ("c", 0.1))]
    assert convert("webgpt", records) == [[[("user", "q"), ("assistant", "a")]]]
