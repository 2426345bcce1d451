"""vicuna cleans, fills and joins messages. orca-chat takes the instruction as system message."""

import random
from typing import Any

from pretokenizer.sources.conversations import clean
from tests.pretokenizer.sources.conftest import Convert


def talk(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}


def test_cleaning() -> None:
    assert clean(r" a\_b \* [3] [ 7 ] [1, 2] [  5 ] ") == "a_b *   [1, 2] [  5 ]"


def test_turns(convert: Convert) -> None:
    records = [
        talk(("human", " a "), ("gpt", "b"), ("gpt", "c [1]"), ("human", "d"), ("gpt", "e")),
        talk(("gpt", "b"), ("human", "a"), ("gpt", "c")),
        talk(),
        talk(("human", "a"), ("gpt", "")),
        talk(("human", "a"), ("gpt", None)),
        talk(("human", "a"), ("gpt", " ")),
        talk(("human", "a"), ("gpt", "b"), ("human", "c")),
        talk(("human", "a"), ("system", "lost"), ("human", "c"), ("gpt", "b"), ("gpt", "d")),
        talk(("human", "a"), ("system", "lost"), ("gpt", "b")),
    ]
    assert convert("vicuna", records) == [
        [[("user", "a"), ("assistant", "b\nc"), ("user", "d"), ("assistant", "e")]],
        "does not begin with human",
        "does not begin with human",
        "empty reply",
        "empty reply",
        [[("user", "a"), ("assistant", "")]],
        "unequal numbers of questions and answers",
        "unequal numbers of questions and answers",
        [[("user", "a"), ("assistant", "b")]],
    ]


def test_empty_questions_are_filled_from_the_shared_generator(convert: Convert) -> None:
    records = [talk(("human", ""), ("gpt", str(i))) for i in range(6)]
    rng = random.Random(42)
    expected = [rng.choice(["...", "Please continue", "Go on", ""]) for _ in range(6)]
    assert [found[0][0][1] for found in convert("vicuna", records)] == expected
    # a conversation draws its random numbers before it is dropped
    dropped = talk(("human", "a"), ("gpt", "b"), ("human", None), ("gpt", ""))
    assert convert("vicuna", [dropped, *records])[1][0][0][1] == expected[1]


def test_joined_messages_are_cut(convert: Convert) -> None:
    found = convert("vicuna", [talk(("human", "abc"), ("human", "def"), ("gpt", "x" * 9))], input_max_length=5)
    assert found == [[[("user", "abc\nd"), ("assistant", "xxxxx")]]]


def test_orca_chat(convert: Convert) -> None:
    turns = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    records = [{"instruction": "s", "conversation": turns}, {"instruction": "", "conversation": turns[:1]}]
    assert convert("orca-chat", records) == [
        [[("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]],
        [[("user", "a"), ("assistant", "b")]],
    ]
