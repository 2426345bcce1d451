from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.chat.history import unroll
from pretokenizer.chat.roles import Role


def test_one_document_for_each_reply_with_loss() -> None:
    silent = Message(Role.ASSISTANT, "d", train=False)
    talk = Conversation((*pair("a", "b"), Message(Role.USER, "c"), silent, *pair("e", "f")), "en", [{"name": "t"}])
    found = unroll(talk)
    assert [len(document.messages) for document in found] == [2, 6]
    assert found[0].messages == talk.messages[:2]
    assert [message.train for message in found[1].messages] == [None, False, None, False, None, None]
    assert {document.lang for document in found} == {"en"} and found[1].tools == [{"name": "t"}]
    assert unroll(Conversation(talk.messages[:1])) == []
