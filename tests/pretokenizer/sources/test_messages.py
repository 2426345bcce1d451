"""The source `messages` for a user's own data: its options and notes, and the records that it omits or refuses."""

from typing import Any

import pytest

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.roles import Role
from pretokenizer.sources import make_source
from tests.pretokenizer.sources.conftest import Convert


def messages(*talk: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in talk]}


def test_marks_of_messages(convert: Convert) -> None:
    talk = [
        {"role": "user", "content": "q", "train": True},
        {"role": "assistant", "content": "a", "train": False},
        {"role": "user", "content": "r", "weight": 0},
        {"role": "assistant", "content": "b", "loss": False},
        {"role": "user", "content": "s"},
        {"role": "assistant", "content": "c", "weight": 1, "train": True},
        {"role": "user", "content": "t"},
        {
            "role": "assistant",
            "content": "d",
            "weight": None,
            "train": None,
        },  # a parquet file has null for a missing field
    ]
    found = convert("messages", [{"messages": talk}])[0][0]
    silent = "assistant_no_loss"
    assert [role for role, _ in found] == [
        "assistant",
        silent,
        silent,
        silent,
        "user",
        "assistant",
        "user",
        "assistant",
    ]


def test_loss_on_everything_and_plain_text(convert: Convert) -> None:
    talk = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": False}]}
    assert convert("messages", [talk], loss="all") == [[[("assistant", "q"), ("assistant_no_loss", "a")]]]
    plain = Conversation((Message(Role.ASSISTANT, "A fox.", True),), "en", None, is_plain=True)
    assert make_source("messages", {"loss": "all"}).convert({"text": "A fox.", "lang": "en"}, "train") == [plain]
    assert convert("messages", [{"text": "A fox."}, {"Text": "x"}]) == [
        "bad: plain text needs the option `loss: all`",
        "bad: no known form; docs/data.md lists the forms; its keys: Text",
    ]


def test_an_empty_system_message_is_dropped(convert: Convert) -> None:
    source = make_source("messages", {})
    record = messages(("system", ""), ("user", "q"), ("context", None), ("assistant", "a"))
    assert source.convert(record, "train") == [Conversation((Message(Role.USER, "q"), Message(Role.ASSISTANT, "a")))]
    assert source.irregular == {"an empty system message is dropped": 1, "an empty context message is dropped": 1}


def test_notes_and_unused_keys_are_collected() -> None:
    source = make_source("messages", {"ignore": ["context"]})
    record = {"id": 7, "context": "c", "lang": "en", "messages": [{"role": "user", "content": "q", "id": 1}]}
    assert source.convert(record, "train") == "no assistant message"
    record["messages"].append({"role": "assistant", "content": "a"})
    record["messages"].append({"role": "user", "content": "r"})
    source.convert(record, "train")
    assert source.unused == {"id", "messages[].id"} and source.irregular == {"ends without a reply": 1}


def test_consecutive_roles() -> None:
    record = messages(("user", "q"), ("human", "r"), ("gpt", "a"))
    for rule, texts in (("allow", ["q", "r", "a"]), ("merge", ["q\n\nr", "a"])):
        (conversation,) = make_source("messages", {}, 0.2, rule).convert(record, "train")  # type: ignore[arg-type, misc]
        assert [message.text for message in conversation.messages] == texts  # type: ignore[union-attr]
    (reason, found) = make_source("messages", {}, 0.2, "refuse").convert(record, "train")
    assert (reason, found) == ("roles do not alternate", "two messages of the user in a row")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (messages(), "no assistant message"),
        (messages(("user", "q")), "no assistant message"),
        (messages(("user", ""), ("assistant", "a")), "bad: empty message"),
        (messages(("user", None), ("assistant", "a")), "bad: message without text; content of type NoneType"),
        (messages(("user", "q"), ("moderator", "x"), ("assistant", "a")), "bad: unknown role; 'moderator'"),
        ({"messages": "q"}, "bad: has an unexpected form (the messages are not a list); its keys: messages"),
        ({"messages": [{"content": "q"}]}, "bad: lacks the key 'role'; its keys: messages"),
        (
            {"prompt": "q", "response": "a", "weight": 2},
            "bad: has an unexpected form (`weight` is not 0, 1, true or false); its keys: prompt, response, weight",
        ),
    ],
)
def test_records_that_are_left_out_or_refused(record: dict[str, Any], reason: str, convert: Convert) -> None:
    assert convert("messages", [record]) == [reason]


def test_contexts_stand_between_speakers(convert: Convert) -> None:
    talk = [("user", "q"), ("context", "c"), ("context", "d"), ("assistant", "a")]
    assert convert("messages", [{**messages(*talk), "lang": 5}]) == [[talk]]


@pytest.mark.parametrize("roles", ["ua", "suaua", "uaua", "au", "u", "uua", "uas", "ssua", "sa", "", "uaa"])
def test_the_fast_path_for_regular_conversations_gives_the_same(roles: str) -> None:
    """An option that matches nothing makes the reader take the slow path, which applies every rule."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    turns = [(names[letter], f"{letter}{i}") for i, letter in enumerate(roles)]
    sharegpt = [{"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": text} for role, text in turns]
    marked = [{"role": role, "content": text, "weight": 1} for role, text in turns]
    parts = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    for record in (
        {**messages(*turns), "id": 1},
        {"conversations": sharegpt},
        {"messages": marked},
        {"messages": parts},
    ):
        short, long = make_source("messages", {}), make_source("messages", {"ignore": ["nothing"]})
        assert short.convert(record, "train") == long.convert(record, "train")
        assert short.irregular == long.irregular
        short.note_fields(record)
        assert short.unused == long.unused or isinstance(long.convert(record, "train"), str)
