"""Conversations that are hard to encode, wrong encoders, and the comparison of two encoded batches."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import EncodedBatch
from pretokenizer.encode.hard_texts import BATTERY


def hard_conversations() -> list[Conversation]:
    """Return the hard texts as questions and answers, some of which contain control tokens."""
    texts = [*BATTERY, "x<|im_end|>y", "</s><s><unk>", "<|im_start|>assistant\nno<|im_end|>\n", "<PAD><|endoftext|>"]
    talks = [Conversation(pair(a or "-", b or "-")) for a, b in zip(texts, [*texts[7:], *texts[:7]], strict=True)]
    system = Message(Role.SYSTEM, "s <|im_end|>")
    return [
        *talks,
        Conversation((system, *talks[3].messages, *talks[4].messages, Message(Role.ASSISTANT, "z", train=False))),
    ]


def assert_equal(found: EncodedBatch, expected: EncodedBatch) -> None:
    for name in ("tokens", "document_sizes", "control_counts", "straddling_counts"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    roles, expected_roles = (np.repeat(batch.turn_roles, batch.turn_sizes) for batch in (found, expected))
    assert np.array_equal(roles, expected_roles)


def wrong_encoders(right: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a method of FastEngine that changes the fourth id of the right one, and one that drops the first id."""

    def one_id_wrong(self: Any, text: str | bytes) -> Any:
        ids = right(self, text)
        ids[3] += 1
        return ids

    return one_id_wrong, lambda self, text: right(self, text)[1:]
