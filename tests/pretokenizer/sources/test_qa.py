"""gsm8k, joke and orca-chat: every record gives one conversation, and nothing is filtered."""

from tests.pretokenizer.sources.conftest import Convert


def test_gsm8k_keeps_its_marks(convert: Convert) -> None:
    answer = "48/2 = <<48/2=24>>24\n#### 24"
    assert convert("gsm8k", [{"question": "q", "answer": answer}]) == [[[("user", "q"), ("assistant", answer)]]]


def test_joke(convert: Convert) -> None:
    assert convert("joke", [{"joke": "j", "explaination": "e"}]) == [[[("user", "j"), ("assistant", "e")]]]


def test_orca_chat(convert: Convert) -> None:
    turns = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    records = [{"instruction": "s", "conversation": turns}, {"instruction": "", "conversation": turns[:1]}]
    assert convert("orca-chat", records) == [
        [[("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]],
        [[("user", "a"), ("assistant", "b")]],
    ]
