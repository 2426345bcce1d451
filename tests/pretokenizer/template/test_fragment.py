from pretokenizer.template.expression import field_of
from pretokenizer.template.fragment import Fragment, differing, fill, text_of

CONTENT = Fragment("Hi", 0, True, expression=field_of(0, "content"))
STRIPPED = Fragment("Hi", 0, True, expression=field_of(0, "content").apply("strip", (None,)))


def fixed(text: str) -> Fragment:
    return Fragment(text, 0, False)


def test_what_two_texts_do_not_share() -> None:
    assert differing([fixed("a"), CONTENT, fixed("b"), fixed("c")], [fixed("a"), CONTENT, fixed("bc")]) == ([], [])
    one, other = differing([fixed("a"), CONTENT, fixed("b")], [fixed("a"), STRIPPED, fixed("b")])
    assert fill(one, [{"content": " x "}]) == " x " and fill(other, [{"content": " x "}]) == "x"
    one, other = differing([fixed("a"), CONTENT], [fixed("a"), CONTENT, fixed("z")])
    assert (one, other) == ([""], ["z"])


def test_data_and_text() -> None:
    assert text_of([fixed("a"), CONTENT]) == "aHi"
