"""figures/chat_notes.py: one warning for each problem, with its counts."""

from collections import Counter

from pretokenizer.figures.chat_notes import chat_warnings


def test_replies_that_differ_from_those_served() -> None:
    assert chat_warnings(Counter(replies_compared=40)) == []
    (changed,) = chat_warnings(Counter(replies_compared=40, replies_changed=3))
    assert changed.startswith("3 of 40 compared replies differ from what the model sees")
    assert changed.endswith("writes each reply after the prompt that is served")


def test_replies_that_were_not_compared_are_named() -> None:
    assert chat_warnings(Counter(replies_compared=40, replies_skipped=1200)) == [
        "all 40 compared replies are as the model sees and writes them when it is served; "
        "1,200 further replies of long conversations were not compared"
    ]
    (changed,) = chat_warnings(Counter(replies_compared=40, replies_changed=3, replies_skipped=2))
    assert changed.endswith("; 2 further replies of long conversations were not compared")
