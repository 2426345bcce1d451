"""conversation.py"""

from pretokenizer.conversation import Message, pair, problem_of
from pretokenizer.roles import Role


def test_pair() -> None:
    assert pair("q", "a") == (Message(Role.USER, "q"), Message(Role.ASSISTANT, "a"))


def test_problem_of() -> None:
    assert problem_of(pair("q", "a")) is None
    assert problem_of([]) == "the conversation has no messages"
    assert problem_of([*pair("q", "a"), Message(Role.SYSTEM, "s")]) == "message 3 is a system message after the start"
    assert problem_of([Message(Role.USER, None)]) == "message 1 has no text"  # type: ignore[arg-type]
