from pretokenizer.chat.conversation import Message, pair
from pretokenizer.chat.roles import Role


def test_pair() -> None:
    assert pair("q", "a") == (Message(Role.USER, "q"), Message(Role.ASSISTANT, "a"))
