"""chat_template_file.py: templates of others, against transformers' rendering."""

from pathlib import Path

import pytest

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import CHAT_FORMATS, ChatFormatError
from pretokenizer.chat.jinja_format import TemplateFormat, read_template
from pretokenizer.chat.roles import Role
from pretokenizer.tokenizer.base import Tokenizer

CONVERSATION = Conversation(
    (
        Message(Role.SYSTEM, "user"),
        Message(Role.USER, "user"),
        Message(Role.ASSISTANT, " assistant "),
        Message(Role.USER, "x"),
        Message(Role.ASSISTANT, "y", train=False),
    )
)
ZEPHYR = """{% for message in messages %}
<|{{ message['role'] }}|>
{{ message['content'] | trim }}</s>
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}"""


def template(source: str, tokenizer: Tokenizer) -> TemplateFormat:
    return TemplateFormat(source, "t.jinja", tokenizer)


@pytest.mark.parametrize("name", ["chatml"])
def test_a_known_format_given_as_a_file_is_the_same(name: str, sample_tokenizer: Tokenizer) -> None:
    known = CHAT_FORMATS[name]
    found = template(known.hf_chat_template, sample_tokenizer)
    assert found.turns(CONVERSATION.messages) == known.turns(CONVERSATION.messages)
    assert (found.generation_prompt, found.end_of_turn) == (known.generation_prompt, known.end_of_turn)


def test_turns_of_a_template_that_trims(sample_tokenizer: Tokenizer) -> None:
    found = template(ZEPHYR, sample_tokenizer)
    assert found.render(CONVERSATION)[:3] == [
        ("<|system|>\nuser</s>\n", Role.SYSTEM),
        ("<|user|>\nuser</s>\n", Role.USER),
        ("<|assistant|>\nassistant</s>\n", Role.ASSISTANT),
    ]
    assert found.turns(CONVERSATION.messages)[2] == ("<|assistant|>\n", "assistant", "</s>\n", Role.ASSISTANT)
    assert (found.generation_prompt, found.end_of_turn) == ("<|assistant|>\n", "</s>")


def test_the_text_is_that_of_transformers(sample_tokenizer: Tokenizer) -> None:
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [{"role": m.role.template_name, "content": m.text} for m in CONVERSATION.messages]
    rendered, _ = utilities.render_jinja_template([messages], chat_template=ZEPHYR)
    assert "".join(text for text, _ in template(ZEPHYR, sample_tokenizer).render(CONVERSATION)) == rendered[0]


def test_a_system_message_that_cannot_stand_alone_joins_the_next(sample_tokenizer: Tokenizer) -> None:
    source = (
        "{% if messages[-1].role == 'system' %}{{ raise_exception('no question') }}{% endif %}"
        "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}"
    )
    turns = template(source, sample_tokenizer).turns(CONVERSATION.messages[:3])
    assert turns[0] == ("system: ", "user</s>user: user", "</s>", Role.USER)
    assert turns[1].role is Role.ASSISTANT


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{% for m in messages %}{{ loop.length }}{{ m.content }}</s>{% endfor %}",
            "message 2 changes the text of those before",
        ),
        ("{% for m in messages %}{{ m.content | upper }}</s>{% endfor %}", "a message's text cannot be found again"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "no control token ends a reply"),
        ("{% for m in messages %}", r"t\.jinja:1: not a Jinja template"),
        ("{{ messages[0].nothing.more }}", "the template fails"),
        ("{{ ''.__class__.__mro__ }}", "the template fails"),
    ],
)
def test_templates_that_are_refused(source: str, message: str, sample_tokenizer: Tokenizer) -> None:
    with pytest.raises(ChatFormatError, match=message):
        template(source, sample_tokenizer).turns(CONVERSATION.messages)


def test_missing_file(sample_tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ChatFormatError, match=r"none\.jinja: cannot read"):
        read_template(tmp_path / "none.jinja", sample_tokenizer)
