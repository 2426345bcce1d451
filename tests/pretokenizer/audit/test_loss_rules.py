"""Each rule of the audit gives loss to the expected tokens of a conversation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretokenizer.audit.loss_rules import Audited, LossAudit
from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.chat.roles import Role
from pretokenizer.config.settings import RunOptions
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.plan import make_plan
from tests.pretokenizer.conftest import make_toy_config, question_records, write_jsonl

AuditOf = Callable[..., Audited]
TALK = Conversation(
    (
        Message(Role.USER, "Hi there"),
        Message(Role.ASSISTANT, "Yes."),
        Message(Role.USER, "Bye"),
        Message(Role.ASSISTANT, "So long"),
    )
)


@pytest.fixture
def audit_of(tmp_path: Path) -> AuditOf:
    """Return a function that audits a conversation under a chat format and other keys of a section."""
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(1))

    def run(conversation: Conversation = TALK, **keys: str) -> Audited:
        plan = make_plan(make_toy_config(tmp_path, ["gsm8k"], **keys))
        return LossAudit(BuildContext.load(plan, RunOptions(), tmp_path)).audit(conversation)

    return run


def with_loss(audited: Audited, rule: str) -> str:
    pieces = np.array(audited.pieces, dtype=object)
    return "".join(pieces[audited.masks[rule]])


def test_each_rule_in_chatml(audit_of: AuditOf) -> None:
    audited = audit_of()
    turns = "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>assistant\nSo long<|im_end|>\n"
    assert "".join(audited.pieces) == (
        "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSo long<|im_end|>\n"
    )
    assert {rule: with_loss(audited, rule) for rule in audited.masks} == {
        "build": turns,
        "marks": turns,
        "trl": turns,
        "prefix": "Yes.<|im_end|>\nSo long<|im_end|>\n",
    }
    assert audited.problems == {}
    assert audited.differs


def test_a_reply_without_loss_is_a_difference(audit_of: AuditOf) -> None:
    quiet = TALK.messages[1]._replace(train=False)
    audited = audit_of(TALK._replace(messages=(TALK.messages[0], quiet, *TALK.messages[2:])))
    assert with_loss(audited, "build") == "<|im_start|>assistant\nSo long<|im_end|>\n"
    assert "Yes." in with_loss(audited, "prefix")


def test_a_template_without_marks_has_no_answer_for_trl(audit_of: AuditOf, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    audited = audit_of(chat_format=str(template), template_loss="reply")
    assert set(audited.masks) == {"build", "prefix"}
    assert audited.problems["trl"] == "the chat template has no {% generation %} marks"
    assert with_loss(audited, "build") == with_loss(audited, "prefix")
    assert not audited.differs


def test_tokens_that_straddle_the_border_of_a_reply_are_counted(
    audit_of: AuditOf, byte_level_path: Path, straddling_template: Path
) -> None:
    keys = {"chat_format": str(straddling_template), "vocab_file": str(byte_level_path), "template_loss": "reply"}
    audited = audit_of(Conversation(pair("the dog", "the cat sat")), **keys)
    assert audited.straddling == 1
    assert with_loss(audited, "build") == " cat sat<|endoftext|>"


def test_a_template_that_rewrites_history_has_no_prefixes(audit_of: AuditOf, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "{{ ' (last)' if loop.last }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    audited = audit_of(chat_format=str(template))
    assert audited.problems["prefix"] == "the rendering up to message 2 is not the start of the whole text"
