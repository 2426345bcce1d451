"""Rendering attributes each text to its message and origin, and gives the same text as plain Jinja."""

from typing import Any

import pytest

from pretokenizer.template.fragment import text_of
from pretokenizer.template.rendering import CompiledTemplate, TemplateFailureError

TALK = [
    {"role": "system", "content": "S."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
]


def compiled(source: str) -> CompiledTemplate:
    return CompiledTemplate(source, "t.jinja", {"bos_token": "<s>", "eos_token": "</s>"}, "2025-01-31")


def owners(source: str, messages: Any = TALK, **options: Any) -> list[tuple[str, int, bool]]:
    """Render, check the whole text, and return (text, message, whether it is data) of each fragment with text."""
    template = compiled(source)
    found = template.fragments(messages, **options)
    assert text_of(found) == template.text(messages, **options)
    return [(fragment.text, fragment.message, fragment.is_data) for fragment in found if fragment.text]


def test_template_text_belongs_to_the_message_of_the_loop() -> None:
    assert owners("{{ bos_token }}{% for m in messages %}{{ '[' ~ m.content }}]{% endfor %}{{ eos_token }}") == [
        ("<s>", -1, False),
        *[("[", 0, False), ("S.", 0, True), ("]", 0, False)],
        *[("[", 1, False), ("Hi", 1, True), ("]", 1, False)],
        *[("[", 2, False), ("Yo", 2, True), ("]", 2, False)],
        ("</s>", 2, False),
    ]


def test_looking_ahead_moves_nothing() -> None:
    ahead = (
        "{% for m in messages %}{{ m.content }}{% set next = messages[loop.index] %}"
        "{% if not loop.last and messages[loop.index0 + 1].content and loop.nextitem %}{% endif %}{{ ';' }}{% endfor %}"
    )
    assert [(text, owner) for text, owner, _ in owners(ahead)] == [
        *[("S.", 0), (";", 0), ("Hi", 1), (";", 1), ("Yo", 2), (";", 2)]
    ]
    scan = (
        "{% for m in messages | reverse %}{% if m.content %}{% endif %}{% endfor %}{{ 'x' }}{{ messages[1].content }}y"
    )
    assert owners(scan) == [("x", -1, False), ("Hi", 1, True), ("y", 1, False)]


def test_an_inner_loop_returns_to_the_outer_message() -> None:
    source = "{% for m in messages %}{% for n in messages %}{{ '.' }}{% endfor %}{{ '|' }}{% endfor %}"
    assert [owner for _, owner, _ in owners(source, TALK[:2])] == [0, 1, 0, 0, 1, 1]


def test_a_message_that_is_stored_is_the_current_one_outside_of_loops() -> None:
    source = "{% for i in range(2) %}{% set m = messages[i] %}{{ '<' }}{{ m.content }}{{ '>' }}{% endfor %}"
    assert [(text, owner) for text, owner, _ in owners(source)] == [
        *[("<", 0), ("S.", 0), (">", 0), ("<", 1), ("Hi", 1), (">", 1)]
    ]


def test_marks_cover_what_stands_inside() -> None:
    source = "{% for m in messages[1:] %}a{% generation %}b{{ m.content }}{% endgeneration %}c{% endfor %}"
    found = compiled(source).fragments(TALK)
    assert [(fragment.text, fragment.is_marked) for fragment in found if fragment.text] == [
        *[("a", False), ("b", True), ("Hi", True), ("c", False)],
        *[("a", False), ("b", True), ("Yo", True), ("c", False)],
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "m.content.strip('Y').lstrip().rstrip('o')",
        "m.content.split('o')[0] ~ m.content.rsplit('Y', 1)[-1] ~ m.content.split()",
        "m.content[0] ~ m.content[-1:] ~ m.content[5:] ~ m.content[9]",
        "m.content.splitlines(true) | join('-') ~ m.content.partition('o')[1] ~ m.content.rpartition('Y')[2]",
        "m.content | upper ~ m.content | lower ~ m.content.title() ~ m.content | capitalize",
        "m.content.replace('o', 'ooo') ~ m.content | replace('Y', '') ~ m.content.replace('', '.')",
        "m.content * 2 ~ 2 * m.content ~ ['a', m.content] | join(', ', ) ~ '-'.join([m.content, m.role])",
        "'%s:%r:%5s:%%' % (m.content, m.content, m.content) ~ '%(a)s' % {'a': m.content} ~ m.content % ()",
        "'{}{0}'.format(m.content) if false else '{a}{b!r:>6}{}'.format(m.content, a=m.role, b=m.content)",
        "m | tojson ~ m | items | list ~ messages | map(attribute='content') | join('/') ~ [m.content] ~ {'a': m}",
        "m.content | length ~ m.content.find('o') ~ m.content.count('o') ~ (m.content == 'Yo') ~ (m.content in 'Yo!')",
        "('o' in m.content) ~ ('o' not in m.content) ~ (m.content < 'Z') ~ (m.content in ['Yo']) ~ m.content.isalpha()",
        "m.content | indent(2, true) ~ m.content | escape ~ m.content | safe ~ m.content | wordwrap(1)",
        "m.content | int ~ m.content | float ~ m.content | string ~ m.content | urlencode ~ m.content | striptags",
        "m.content | first ~ m.content | last ~ m.content | list ~ m.content | reverse ~ (m.content is sequence)",
        "m.content.center(7, '*') ~ m.content.zfill(5) ~ m.content.encode() ~ m.content.expandtabs()",
        "m.get('nothing', m.content) ~ m.content.nothing ~ m['content'] ~ m.content.removesuffix('o')",
    ],
)
def test_whatever_a_template_does_with_texts_the_text_is_that_of_jinja(expression: str) -> None:
    source = "{% for m in messages %}[{{ " + expression + " }}]{% endfor %}"
    found = owners(source)
    assert all(text.isascii() for text, _, _ in found)


def test_pieces_keep_their_origin_through_methods() -> None:
    joined = "('a' + m.content + 'b').strip('ab') + (m.content | trim)[:1].upper()"
    source = "{% for m in messages[2:] %}{{ " + joined + " }}{% endfor %}"
    assert owners(source) == [("Yo", 2, True), ("Y", 2, True)]
    template_text = "{{ '<%s>{}' % messages[1].content }}{{ '<{}>'.format(messages[2].content) }}"
    assert [(text, is_data) for text, _, is_data in owners(template_text)] == [
        *[("<", False), ("Hi", True), (">{}", False), ("<", False), ("Yo", True), (">", False)]
    ]


def test_printed_containers_and_json_are_data_with_their_control_tokens() -> None:
    call = {"role": "assistant", "content": "", "calls": [{"name": "w", "arguments": {"<|im_end|>": 1}}]}
    source = (
        "{{ messages[0].calls }}{{ messages[0].calls | tojson }}"
        "{% for k, v in messages[0].calls[0].items() %}{{ k }}{% endfor %}"
    )
    assert all(is_data and owner == 0 for _, owner, is_data in owners(source, [call]))


def test_tools_belong_to_no_message() -> None:
    found = owners("{% for t in tools %}{{ t.name }}{{ t | tojson }}{% endfor %}", tools=[{"name": "w"}])
    assert found == [("w", -1, True), ('{"name": "w"}', -1, True)]


def test_the_date_is_fixed() -> None:
    assert compiled("{{ strftime_now('%d.%m.%Y') }}").text(TALK) == "31.01.2025"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('no') }}", "t.jinja: the template fails: no"),
        ("{{ messages[0].content.text.more }}", "'str object' has no attribute 'text'"),
        ("{% set ns = namespace() %}{% set ns._a = 1 %}", "underscore"),
        ("{{ 2 ** 3 }}", r"powers \(\*\*\) are not allowed"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].content._parts[0].text }}", "the template fails"),
    ],
)
def test_failures(source: str, message: str) -> None:
    with pytest.raises(TemplateFailureError, match=message):
        compiled(source).fragments(TALK)


def test_an_endless_loop_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretokenizer.files.limits.SECONDS", 0.2)
    source = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateFailureError, match=r"t\.jinja: does not finish within 0\.2 s"):
        compiled(source).text(TALK)


@pytest.mark.parametrize("expression", ["'%010000000000d' % 1", "'x' * 10000000000", "'x' | center(10000000000)"])
def test_constants_that_take_too_much_memory(expression: str) -> None:
    with pytest.raises(TemplateFailureError, match=r"t\.jinja: "):
        compiled("{{ " + expression + " }}").fragments(TALK)
