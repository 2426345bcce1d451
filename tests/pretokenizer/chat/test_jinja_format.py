"""Difficult Jinja templates of every kind give transformers' text and the literal roles."""

import time
from pathlib import Path
from typing import Any

import pytest

from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.chat.formats import CHAT_FORMATS, ChatFormatError
from pretokenizer.chat.history import unroll
from pretokenizer.chat.jinja_format import TemplateFormat, TemplateOptions, read_template
from pretokenizer.chat.rendered import Rendered
from pretokenizer.chat.roles import Role
from pretokenizer.chat.shown import shown
from pretokenizer.tokenizer.base import Tokenizer

TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
PLAIN = f"{{% for m in messages %}}{TURN}{{% endfor %}}{PROMPT}"
TEMPLATES = {
    "plain": PLAIN,
    "separate prints": (
        "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    ),
    "folded system": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\\n\\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{{ '<|im_start|>' + m.role + '\\n' + (s if loop.first else '') + m.content"
        f" + '<|im_end|>\\n' }}}}{{% endfor %}}{PROMPT}"
    ),
    "history dropped": (
        "{% for m in messages %}{% set c = m.content.split('</think>')[-1].lstrip('\\n') %}"
        "{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' and loop.last %}"
        "{{ '<think>' + (m.content.split('</think>')[0].split('<think>')[-1] if '</think>' in m.content else '')"
        f" + '</think>' }}}}{{% endif %}}{{{{ c + '<|im_end|>\\n' }}}}{{% endfor %}}{PROMPT}"
    ),
    "eos at the end": (
        f"{{% for m in messages %}}{TURN}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "needs a user": (
        "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
        f"{{{{ raise_exception('no user') }}}}{{% endif %}}{{% for m in messages %}}{TURN}{{% endfor %}}{PROMPT}"
    ),
    "date": f"{{{{ 'Today is ' + strftime_now('%d %b %Y') + '\\n' }}}}{PLAIN}",
    "marks": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
        f"{{% else %}}{{{{ m.content + '<|im_end|>\\n' }}}}{{% endif %}}{{% endfor %}}{PROMPT}"
    ),
    "tools through macros": (
        "{% macro call(c) %}{{ '<tool_call>' + c.function.name + c.function.arguments | tojson(indent=2) }}"
        "{% endmacro %}{% if tools %}{{ '<|im_start|>system\\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
        "{{ '<|im_end|>\\n' }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}{{ call(c) }}{% endfor %}<|im_end|>\n{% endfor %}"
    ),
    "tilde, percent and format": (
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>' }}"
        "{{ '%s|%5.1f%%' % (m.content, 2.5) }}{{ '{}-{x}'.format(m.content, x=loop.index) }}"
        "{{ [m.role, m.content] | join(', ') }}{{ ', '.join([m.content, 'a']) }}<|im_end|>{% endfor %}"
    ),
    "loops by index": (
        "{% for i in range(messages | length) %}{% set m = messages[i] %}"
        "{% if i + 1 < messages | length %}{% set next = messages[i + 1] %}{% endif %}"
        f"{TURN}{{% if m.role == 'user' %}}{{% continue %}}{{% endif %}}{{{{ '#' }}}}{{% endfor %}}"
    ),
    "string methods": (
        "{% for m in messages %}{{ m.content.upper() }}{{ m.content[1:] }}{{ m.content[0] }}{{ m.content[::-1] }}"
        "{{ m.content.replace('l', 'LL') }}{{ m.content.splitlines()[0] }}{{ m.content.partition('l')[2] }}"
        "{{ m.content.removeprefix('H').removesuffix('o') }}{{ m.content | length }}{{ m.content * 2 }}"
        "{% if 'ell' in m.content and m.content in 'Hello, Hello' and m.content is string %}yes{% endif %}"
        "{{ m.content.center(9) }}{{ m.content | indent }}{{ m.content | title }}"
        "{{ m.content.find('l') }}</s>{% endfor %}"
    ),
}
TALK = (
    Message(Role.SYSTEM, "Be kind. "),
    Message(Role.USER, " Hello"),
    Message(Role.ASSISTANT, "<think>\nhm\n</think>\n\nHello é 漢🎉\n"),
    Message(Role.USER, "Hello"),
    Message(Role.ASSISTANT, "Hello"),
)
CALL = {"type": "function", "function": {"name": "w", "arguments": {"city": "Oslo", "n": 2}}}
TOOLS = [{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}]
TOOL_TALK = Conversation(
    (
        Message(Role.USER, "Weather?"),
        Message(Role.ASSISTANT, "", fields={"tool_calls": [CALL]}),
        Message(Role.TOOL, "3", fields={"name": "w"}),
        Message(Role.ASSISTANT, "Cold."),
    ),
    tools=TOOLS,
)


def template(source: str, tokenizer: Tokenizer, **options: Any) -> TemplateFormat:
    return TemplateFormat(source, "t.jinja", tokenizer, TemplateOptions(**options))


def told(rendered: Rendered) -> list[tuple[str, int]]:
    """Return (text, role) of each run of one role."""
    runs: list[tuple[str, int]] = []
    for text, (role, _) in zip(rendered.texts, rendered.kinds, strict=True):
        if runs and runs[-1][1] == role:
            runs[-1] = (runs[-1][0] + text, int(role))
        elif text:
            runs.append((text, int(role)))
    return runs


def by_transformers(source: str, conversation: Conversation, **variables: Any) -> str:
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [shown(message) for message in conversation.messages]
    rendered, _ = utilities.render_jinja_template(
        [messages], tools=conversation.tools, chat_template=source, bos_token="<s>", eos_token="</s>", **variables
    )
    return str(rendered[0])


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"date"}))
@pytest.mark.parametrize("talk", [Conversation(TALK), Conversation(TALK[1:3]), Conversation(TALK[1:]), TOOL_TALK])
def test_the_text_is_that_of_transformers(name: str, talk: Conversation, sample_tokenizer: Tokenizer) -> None:
    source = TEMPLATES[name]
    if talk is TOOL_TALK and name != "tools through macros":
        talk = Conversation(tuple(message for message in TALK if message.role is not Role.SYSTEM))
    found = template(source, sample_tokenizer)
    for _ in range(2):  # the second rendering uses the recording of the first, if there is one
        rendered = found.render(talk)
        assert rendered.text == by_transformers(source, talk)
    assert {kind.role for kind in rendered.kinds if kind.is_data} <= {m.stored_role for m in talk.messages} | {0, 4}


def test_roles_of_a_plain_template_literally(sample_tokenizer: Tokenizer) -> None:
    assert told(template(PLAIN, sample_tokenizer).render(Conversation(TALK[:3]))) == [
        ("<|im_start|>system\nBe kind. <|im_end|>\n", 0),
        ("<|im_start|>user\n Hello<|im_end|>\n", 1),
        ("<|im_start|>assistant\n<think>\nhm\n</think>\n\nHello é 漢🎉\n<|im_end|>\n", 2),
    ]
    reply = template(PLAIN, sample_tokenizer, loss="reply").render(Conversation(TALK[3:]))
    assert told(reply)[1:] == [("<|im_start|>assistant\n", 4), ("Hello<|im_end|>\n", 2)]


def test_a_folded_system_message_keeps_its_role(sample_tokenizer: Tokenizer) -> None:
    found = template(TEMPLATES["folded system"], sample_tokenizer)
    assert told(found.render(Conversation(TALK[:2] + TALK[4:]))) == [
        ("<s>", 0),
        ("<|im_start|>user\n", 1),
        ("Be kind. ", 0),
        ("\n\n Hello<|im_end|>\n", 1),
        ("<|im_start|>assistant\nHello<|im_end|>\n", 2),
    ]


def test_a_final_eos_belongs_to_the_last_reply(sample_tokenizer: Tokenizer) -> None:
    found = template(TEMPLATES["eos at the end"], sample_tokenizer)
    rendered = found.render(Conversation(TALK[3:]))
    assert told(rendered)[-1] == ("<|im_start|>assistant\nHello<|im_end|>\n</s>", 2)
    assert (rendered.replies_compared, rendered.replies_changed) == (1, 0)
    assert found.generation_prompt == "<|im_start|>assistant\n"


def test_marks_are_the_mask(sample_tokenizer: Tokenizer) -> None:
    found = template(TEMPLATES["marks"], sample_tokenizer)
    silenced = TALK[4]._replace(train=False)
    expected = [
        ("<|im_start|>user\nHello<|im_end|>\n", 1),
        ("<|im_start|>assistant\n", 4),
        ("Hello<|im_end|>", 2),
        ("\n", 4),
    ]
    assert found.loss == "marks" and told(found.render(Conversation(TALK[3:]))) == expected
    assert {role for _, role in told(found.render(Conversation((TALK[3], silenced))))} == {1, 4}
    whole = template(TEMPLATES["marks"], sample_tokenizer, loss="turn").render(Conversation(TALK[3:]))
    assert told(whole)[1] == ("<|im_start|>assistant\nHello<|im_end|>\n", 2)
    with pytest.raises(ChatFormatError, match=r"t\.jinja: --template_loss marks"):
        template(PLAIN, sample_tokenizer, loss="marks")


def test_a_message_with_train_overrules(sample_tokenizer: Tokenizer) -> None:
    talk = Conversation((Message(Role.USER, "a", train=True), Message(Role.ASSISTANT, "b", train=False)))
    assert told(template(PLAIN, sample_tokenizer).render(talk)) == [
        ("<|im_start|>user\na<|im_end|>\n", 2),
        ("<|im_start|>assistant\nb<|im_end|>\n", 4),
    ]


def test_prompts_that_are_not_served_are_counted_and_unrolled(sample_tokenizer: Tokenizer) -> None:
    source = TEMPLATES["history dropped"]
    found = template(source, sample_tokenizer)
    for _ in range(2):
        rendered = found.render(Conversation(TALK[1:]))
        assert (rendered.replies_compared, rendered.replies_changed) == (2, 1)  # the first message loses its reasoning
    dates = template("{{ messages | length }}" + PLAIN, sample_tokenizer)
    assert dates.render(Conversation(TALK[1:])).replies_changed == 2
    unrolled = template(source, sample_tokenizer, history="unroll")
    documents = [unrolled.render(talk) for talk in unroll(Conversation(TALK[1:]))]
    assert [told(document) for document in documents] == [
        [
            ("<|im_start|>user\n Hello<|im_end|>\n", 1),
            ("<|im_start|>assistant\n", 4),
            ("<think>\nhm\n</think>Hello é 漢🎉\n<|im_end|>\n", 2),
        ],
        [
            ("<|im_start|>user\n Hello<|im_end|>\n", 1),
            ("<|im_start|>assistant\nHello é 漢🎉\n<|im_end|>\n", 4),
            ("<|im_start|>user\nHello<|im_end|>\n", 1),
            ("<|im_start|>assistant\n", 4),
            ("<think></think>Hello<|im_end|>\n", 2),
        ],
    ]


def test_tools_and_arguments_are_data(sample_tokenizer: Tokenizer) -> None:
    rendered = template(TEMPLATES["tools through macros"], sample_tokenizer).render(TOOL_TALK)
    pieces = zip(rendered.texts, rendered.kinds, strict=True)
    data = [(text, int(kind.role)) for text, kind in pieces if kind.is_data and text]
    assert data == [
        ('{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}', 0),
        ("Weather?", 1),
        ('w{\n  "city": "Oslo",\n  "n": 2\n}', 2),
        ("3", 5),
        ("Cold.", 2),
    ]
    assert told(rendered)[2] == (
        '<|im_start|>assistant\n<tool_call>w{\n  "city": "Oslo",\n  "n": 2\n}<|im_end|>\n',
        2,
    )


def test_a_fixed_date(sample_tokenizer: Tokenizer) -> None:
    found = template(TEMPLATES["date"], sample_tokenizer, date="2024-07-26").render(Conversation(TALK[3:]))
    assert found.text.startswith("Today is 26 Jul 2024\n<|im_start|>user")


def test_recordings_follow_the_answers_of_a_template(sample_tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{% if 'x' in m.content %}[{{ m.content.split('x')[0] }}]"
        "{% elif m.content.startswith('y') %}({{ m.content | trim }}){% else %}{{ m.content }}{% endif %}"
        "</s>{% endfor %}"
    )
    found = template(source, sample_tokenizer)
    texts = ["a", "axb", "xx", " y ", "y z ", "", "bxxa", " b ", "yx", "x"]
    for question in texts:
        for answer in texts:
            talk = Conversation(pair(question, answer))
            assert found.render(talk).text == by_transformers(source, talk)
    assert found._recorded._hits > 40


def test_long_traces_take_linear_time(sample_tokenizer: Tokenizer) -> None:
    found = template(TEMPLATES["tools through macros"], sample_tokenizer)
    seconds = []
    for count in (100, 800):
        talk = Conversation(TOOL_TALK.messages * (count // 4), tools=TOOLS)
        begin = time.process_time()
        found.render(talk)
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 24 * seconds[0]


def test_what_a_template_does_wrong_is_a_warning(sample_tokenizer: Tokenizer) -> None:
    silent = template(f"{{% for m in messages %}}{TURN}{{% endfor %}}", sample_tokenizer)
    assert silent.warnings == (
        "t.jinja: add_generation_prompt adds nothing, so a prompt ends before '<|im_start|>assistant\\n', which the"
        " model has to write and which gets loss; add it to the template, inside {% if add_generation_prompt %}",
    )
    marked = template(
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}: "
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% endfor %}",
        sample_tokenizer,
    )
    assert marked.warnings == (
        "t.jinja: add_generation_prompt adds nothing, so a prompt ends before '<|im_start|>assistant: ', which the"
        " model has to write and which it does not learn, because the marks leave it out; add it to the template,"
        " inside {% if add_generation_prompt %}",
    )
    endless = template("{% for m in messages %}{{ m.content }}\n{% endfor %}", sample_tokenizer)
    assert endless.end_of_turn == "</s>"
    assert "t.jinja: no control token ends a reply (it ends with '\\n')" in endless.warnings[0]
    dropping = template("{% for m in messages if m.role != 'system' %}" + TURN + "{% endfor %}", sample_tokenizer)
    assert dropping.render(Conversation(TALK)).messages_dropped == 1
    assert template(PLAIN, sample_tokenizer).warnings == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for m in messages %}", r"t\.jinja:1: not a Jinja template"),
        ("{{ messages[0].nothing.more }}", r"t\.jinja: the template fails"),
        ("{{ ''.__class__.__mro__ }}", "the template fails"),
        ("{{ 2 ** 9 }}", "the template fails: powers"),
        ("{{ raise_exception('never') }}", "the template fails: never"),
        ("{% set ns = namespace(_a=1) %}", "underscore"),
    ],
)
def test_templates_that_are_refused(source: str, message: str, sample_tokenizer: Tokenizer) -> None:
    with pytest.raises(ChatFormatError, match=message):
        template(source, sample_tokenizer)


def test_a_template_that_refuses_a_conversation(sample_tokenizer: Tokenizer) -> None:
    with pytest.raises(ChatFormatError, match="the template fails: no user"):
        template(TEMPLATES["needs a user"], sample_tokenizer).render(Conversation(TALK[:1]))


def test_chatml_as_a_template_file_gives_the_same(sample_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "chatml.jinja"
    path.write_text(CHAT_FORMATS["chatml"].hf_chat_template)
    found, known = read_template(path, sample_tokenizer), CHAT_FORMATS["chatml"]
    assert told(found.render(Conversation(TALK))) == told(known.render(Conversation(TALK)))
    assert (found.generation_prompt, found.end_of_turn) == (known.generation_prompt, known.end_of_turn)
    with pytest.raises(ChatFormatError, match=r"none\.jinja: cannot read"):
        read_template(tmp_path / "none.jinja", sample_tokenizer)
