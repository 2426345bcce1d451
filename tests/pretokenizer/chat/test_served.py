"""chat/served.py: which replies are compared, and what counts as changed in conversations without a recording."""

from collections import Counter
from functools import partialmethod
from typing import Any

import pytest

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.jinja_format import TemplateFormat
from pretokenizer.chat.roles import Role
from pretokenizer.chat.served import chosen
from pretokenizer.template.rendering import CompiledTemplate
from pretokenizer.tokenizer.base import Tokenizer

PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
KEEPS = f"{{% for m in messages %}}{TURN}{{% endfor %}}{PROMPT}"
DROPS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.thinking and loop.last %}"
    "{{ '<think>' + m.thinking + '</think>' }}{% endif %}{{ m.content + '<|im_end|>\\n' }}{% endfor %}" + PROMPT
)
BLOCK = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>\\n\\n</think>' }}{% endif %}{{ m.content + '<|im_end|>\\n' }}{% endfor %}" + PROMPT
)
REFUSES = "{% if messages | length == 3 %}{{ raise_exception('too short') }}{% endif %}" + KEEPS
ENDS = KEEPS + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
RETURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{{ '</s>' if loop.last and not add_generation_prompt else '<|im_end|>' }}{% endfor %}" + PROMPT
)
"""The last turn ends with another token, as in the template of gpt-oss."""
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
"""With tools, no rendering is recorded."""


def talk(num_pairs: int, thinking: str | None = None) -> Conversation:
    fields = {"thinking": thinking} if thinking else None
    pair = (Message(Role.USER, "q"), Message(Role.ASSISTANT, "a", fields=fields))
    return Conversation(pair * num_pairs, tools=TOOLS)


def test_all_replies_of_a_short_conversation_are_chosen_and_evenly_spaced_ones_of_a_long_one() -> None:
    short = {number: 3 * number for number in range(1, 75, 2)}
    assert chosen(short, 75) == short
    long = {number: 3 * number for number in range(1, 1500, 2)}
    assert list(chosen(long, 1500)) == [371, 747, 1123, 1499]


@pytest.mark.parametrize(
    ("source", "thinking", "changed"),
    [(KEEPS, None, 0), (DROPS, None, 0), (DROPS, "hm", 19), (BLOCK, None, 19), (ENDS, None, 0), (RETURNS, None, 0)],
)
def test_every_reply_is_compared(source: str, thinking: str | None, changed: int, sample_tokenizer: Tokenizer) -> None:
    rendered = TemplateFormat(source, "t.jinja", sample_tokenizer).render(talk(20, thinking))
    assert (rendered.replies_compared, rendered.replies_skipped, rendered.replies_changed) == (20, 0, changed)
    recorded = TemplateFormat(source, "t.jinja", sample_tokenizer)
    for _ in range(2):  # the second one repeats the recording
        rendered = recorded.render(talk(20, thinking)._replace(tools=None))
        assert (rendered.replies_compared, rendered.replies_skipped, rendered.replies_changed) == (20, 0, changed)


def test_a_prompt_that_the_template_refuses_counts_as_changed(sample_tokenizer: Tokenizer) -> None:
    rendered = TemplateFormat(REFUSES, "t.jinja", sample_tokenizer).render(talk(3))
    assert (rendered.replies_compared, rendered.replies_changed) == (3, 1)


def test_long_conversations_count_the_replies_that_are_not_compared(sample_tokenizer: Tokenizer) -> None:
    rendered = TemplateFormat(KEEPS, "t.jinja", sample_tokenizer).render(talk(200))
    assert (rendered.replies_compared, rendered.replies_skipped, rendered.replies_changed) == (8, 192, 0)


@pytest.mark.parametrize("source", [KEEPS, RETURNS])
def test_comparisons_cost_a_fixed_number_of_renderings(
    source: str, sample_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1,500 messages, the template renders all once with origins, once to check them, and four times to compare."""
    chat_format = TemplateFormat(source, "t.jinja", sample_tokenizer)
    counts: Counter[str] = Counter()
    for name in ("text", "fragments"):

        def counted(self: Any, messages: Any, *options: Any, name: str = name, right: Any = None) -> Any:
            counts[name] += len(messages)
            return right(self, messages, *options)

        right = getattr(CompiledTemplate, name)
        monkeypatch.setattr(CompiledTemplate, name, partialmethod(counted, right=right))
    chat_format.render(talk(750))
    prompts = 371 + 747 + 1123 + 1499
    assert counts == {"fragments": 1500, "text": 1500 + prompts + 372 + 748 + 1124}
