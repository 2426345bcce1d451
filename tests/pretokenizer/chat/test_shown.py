"""A template gets the messages in transformers' form."""

import pytest

from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.chat.roles import Role
from pretokenizer.chat.shown import shape_of, shown


def test_fields_of_a_message() -> None:
    assert shown(Message(Role.TOOL, "3", fields={"name": "w"})) == {"role": "tool", "content": "3", "name": "w"}
    assert shown(Message(Role.ASSISTANT, "", fields={"content": None, "tool_calls": []})) == {
        "role": "assistant",
        "tool_calls": [],
    }
    assert shown(Message(Role.SYSTEM, "x", fields={"role": "developer"}))["role"] == "developer"
    assert shown(Message(Role.SYSTEM, "x", fields={"role": "a|><b"}))["role"] == "system"


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_stands_under_the_names_that_templates_read(name: str) -> None:
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    found = shown(Message(Role.ASSISTANT, "a", fields={name: "r"}))
    assert found["reasoning_content"] == found["thinking"] == "r"
    raw = {"role": "assistant", "content": "a", name: "r"}
    assert utilities._alias_reasoning_fields([raw]) == [found]


def test_shapes_hold_all_but_the_texts() -> None:
    def shape(talk: Conversation) -> object:
        return shape_of(talk, [shown(message) for message in talk.messages])

    assert shape(Conversation(pair("a", "b"))) == shape(Conversation(pair("c", "d")))
    assert shape(Conversation(pair("a", "b"))) != shape(Conversation(pair("a", "b") * 2))
    silent = (Message(Role.USER, "a"), Message(Role.ASSISTANT, "b", train=False))
    assert shape(Conversation(silent)) != shape(Conversation(pair("a", "b")))
    thought = Conversation((Message(Role.ASSISTANT, "b", fields={"thinking": "x"}),))
    assert shape(thought) not in (None, shape(Conversation((Message(Role.ASSISTANT, "b"),))))
    assert shape(Conversation((Message(Role.ASSISTANT, "", fields={"tool_calls": []}),))) is None
    assert shape(Conversation(pair("a", "b"), tools=[])) is None
    assert shape(Conversation(pair("a", "b") * 50)) is None
