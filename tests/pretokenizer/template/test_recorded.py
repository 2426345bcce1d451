"""A recorded rendering is found again by a template's questions and their answers."""

from pretokenizer.template.expression import Recording, field_of
from pretokenizer.template.recorded import MAX_NODES, RecordedRenderings


def recording(text: str, *prefixes: str) -> Recording:
    """Return the recording of a template that tries prefixes until one matches."""
    found = Recording()
    for prefix in prefixes:
        found.note(field_of(0, "content"), "startswith", (prefix,), text.startswith(prefix))
    return found


def test_a_rendering_is_found_by_the_answers() -> None:
    store: RecordedRenderings[str] = RecordedRenderings()
    assert store.find("one", [{"content": "ab"}]) is None
    store.add("one", recording("ab", "a"), "begins with a")
    store.add("one", recording("bc", "a", "b"), "begins with b")
    assert store.find("one", [{"content": "axe"}]) == "begins with a"
    assert store.find("one", [{"content": "bee"}]) == "begins with b"
    assert store.find("one", [{"content": "cat"}]) is None
    assert store.find("two", [{"content": "axe"}]) is None


def test_a_question_is_asked_once() -> None:
    assert len(recording("ab", "a", "a", "b").questions) == 2


def test_a_tree_that_is_of_no_use_stops_growing() -> None:
    store: RecordedRenderings[int] = RecordedRenderings()
    for number in range(2000):
        assert store.is_growing
        assert store.find(number, []) is None
    assert not store.is_growing
    large: RecordedRenderings[int] = RecordedRenderings()
    for number in range(MAX_NODES):
        large.add(number, Recording(), number)
    assert not large.is_growing and large.find(7, []) == 7


def test_a_question_without_an_answer_finds_nothing() -> None:
    store: RecordedRenderings[str] = RecordedRenderings()
    found = Recording()
    found.note(field_of(0, "content"), "__getitem__", (0,), "a")
    store.add("one", found, "begins with a")
    assert store.find("one", [{"content": "ab"}]) == "begins with a"
    assert store.find("one", [{"content": ""}]) is None
