"""Each chat format renders the literal text, and its Jinja template renders the same text in transformers."""

from typing import Any

import pytest
import tokenizers

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import CHAT_FORMATS, ChatFormatError, get_chat_format
from pretokenizer.chat.roles import Role
from pretokenizer.chat.shown import shown

CONVERSATION = Conversation(
    (
        Message(Role.SYSTEM, "Be brief. "),
        Message(Role.USER, " Why?\n"),
        Message(Role.CONTEXT, "A text."),
        Message(Role.ASSISTANT, "Because {{ x }}."),
        Message(Role.USER, "And?"),
        Message(Role.ASSISTANT, "So.", train=False),
        Message(Role.USER, ""),
        Message(Role.ASSISTANT, "Ende é."),
    )
)
CHATML = [
    ("<|im_start|>system\nBe brief. <|im_end|>\n", Role.SYSTEM),
    ("<|im_start|>user\n Why?\n<|im_end|>\n", Role.USER),
    ("<|im_start|>context\nA text.<|im_end|>\n", Role.CONTEXT),
    ("<|im_start|>assistant\nBecause {{ x }}.<|im_end|>\n", Role.ASSISTANT),
    ("<|im_start|>user\nAnd?<|im_end|>\n", Role.USER),
    ("<|im_start|>assistant\nSo.<|im_end|>\n", Role.ASSISTANT_NO_LOSS),
    ("<|im_start|>user\n<|im_end|>\n", Role.USER),
    ("<|im_start|>assistant\nEnde é.<|im_end|>\n", Role.ASSISTANT),
]
OASST = [
    ("<|system|>Be brief. <|endoftext|>", Role.SYSTEM),
    ("<|prompter|> Why?\n<|endoftext|>", Role.USER),
    ("<|system|>context: A text.\n<|endoftext|>", Role.CONTEXT),
    ("<|assistant|>Because {{ x }}.<|endoftext|>", Role.ASSISTANT),
    ("<|prompter|>And?<|endoftext|>", Role.USER),
    ("<|assistant|>So.<|endoftext|>", Role.ASSISTANT_NO_LOSS),
    ("<|prompter|><|endoftext|>", Role.USER),
    ("<|assistant|>Ende é.<|endoftext|>", Role.ASSISTANT),
]


LLAMA2 = [
    ("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nA text.\n\nWhy? [/INST]", Role.USER),
    (" Because {{ x }}. </s>", Role.ASSISTANT),
    ("<s>[INST] And? [/INST]", Role.USER),
    (" So. </s>", Role.ASSISTANT_NO_LOSS),
    ("<s>[INST]  [/INST]", Role.USER),
    (" Ende é. </s>", Role.ASSISTANT),
]


@pytest.mark.parametrize(("name", "expected"), [("chatml", CHATML), ("oasst", OASST), ("llama2", LLAMA2)])
def test_render_literally(name: str, expected: list[tuple[str, Role]]) -> None:
    rendered = get_chat_format(name).render(CONVERSATION)
    starts = range(0, len(rendered.texts), 3)
    assert [("".join(rendered.texts[i : i + 3]), rendered.kinds[i + 1].role) for i in starts] == expected
    assert all(len({kind.role for kind in rendered.kinds[i : i + 3]}) == 1 for i in starts)
    assert [kind.is_data for kind in rendered.kinds] == [False, True, False] * len(expected)


def as_hf_messages(conversation: Conversation) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for message in conversation.messages:
        mark = {"train": False} if message.train is False else {}
        messages.append({"role": message.role.template_name, "content": message.text, **mark})
    return messages


def hf_tokenizer() -> Any:
    """Return a transformers tokenizer with one token for each character, so that offsets are simple."""
    transformers = pytest.importorskip("transformers")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["x"], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("name", sorted(CHAT_FORMATS))
def test_jinja_template_gives_the_same_text_and_marks_what_gets_loss(name: str) -> None:
    chat_format = get_chat_format(name)
    hf = hf_tokenizer()
    rendered = chat_format.render(CONVERSATION)
    messages = as_hf_messages(CONVERSATION)
    text = hf.apply_chat_template(messages, chat_template=chat_format.hf_chat_template, tokenize=False)
    assert text == rendered.text
    prompt = hf.apply_chat_template(
        messages[:5], chat_template=chat_format.hf_chat_template, tokenize=False, add_generation_prompt=True
    )
    asked = chat_format.render(Conversation(CONVERSATION.messages[:5]))
    assert prompt == asked.text + chat_format.generation_prompt
    encoded = hf.apply_chat_template(
        messages, chat_template=chat_format.hf_chat_template, return_dict=True, return_assistant_tokens_mask=True
    )
    pieces = zip(rendered.texts, rendered.kinds, strict=True)
    loss = [int(kind.role.gets_loss) for text, kind in pieces for _ in text.encode()]
    assert encoded["assistant_masks"] == loss


def test_a_reply_ends_with_the_end_of_turn_and_begins_with_the_prompt() -> None:
    for chat_format in CHAT_FORMATS.values():
        reply = chat_format.render(Conversation((Message(Role.ASSISTANT, "x"),))).text
        assert reply.startswith(chat_format.generation_prompt)
        assert reply.rstrip("\n").removesuffix(chat_format.end_of_turn).rstrip(" ").endswith("x")
        assert chat_format.end_of_turn in chat_format.special_tokens


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(
        ChatFormatError, match=r"chat_format 'chatlm' is not known \(did you mean 'chatml'\?\); there are"
    ):
        get_chat_format("chatlm")


CALL = {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"city": "Oslo", "days": 2}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
TOOL_TALK = (
    Message(Role.USER, "Weather in Oslo?"),
    Message(Role.ASSISTANT, "Let me look.", fields={"tool_calls": [CALL, CALL], "reasoning_content": "A call."}),
    Message(Role.TOOL, "3 degrees", fields={"tool_call_id": "c1"}),
    Message(Role.ASSISTANT, "", fields={"tool_calls": [CALL], "content": None}),
    Message(Role.ASSISTANT, "Cold."),
)


def test_chatml_writes_thoughts_and_tool_calls_literally() -> None:
    rendered = get_chat_format("chatml").render(Conversation(TOOL_TALK))
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
    assert rendered.text == (
        "<|im_start|>user\nWeather in Oslo?<|im_end|>\n"
        f"<|im_start|>assistant\n<think>\nA call.\n</think>\n\nLet me look.\n{call}\n{call}<|im_end|>\n"
        "<|im_start|>tool\n3 degrees<|im_end|>\n"
        f"<|im_start|>assistant\n{call}<|im_end|>\n"
        "<|im_start|>assistant\nCold.<|im_end|>\n"
    )
    roles = [kind.role for kind in rendered.kinds[1::3]]
    assert roles == [Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT, Role.ASSISTANT]


@pytest.mark.parametrize("start", [(), (Message(Role.SYSTEM, "Be kind."),)])
def test_the_template_of_chatml_writes_tools_the_same_way(start: tuple[Message, ...]) -> None:
    conversation = Conversation((*start, *TOOL_TALK), tools=TOOLS)
    messages = [shown(message) for message in conversation.messages]
    chat_format = get_chat_format("chatml")
    text = hf_tokenizer().apply_chat_template(
        messages, tools=TOOLS, chat_template=chat_format.hf_chat_template, tokenize=False
    )
    assert text == chat_format.render(conversation).text
    assert "# Tools" in text and text.count("<|im_start|>system") == 1


@pytest.mark.parametrize("name", ["oasst", "llama2"])
def test_formats_without_a_form_for_tools_name_the_field(name: str) -> None:
    chat_format = get_chat_format(name)
    for conversation, found in (
        (Conversation(TOOL_TALK), "tool_calls, reasoning_content"),
        (Conversation(TOOL_TALK[:1], tools=TOOLS), "tools"),
        (Conversation((Message(Role.TOOL, "3"),)), "a tool message"),
    ):
        with pytest.raises(ChatFormatError, match=f"{name} has no form for {found}"):
            chat_format.render(conversation)


def test_loss_on_the_reply_alone_and_unrolled() -> None:
    chat_format = get_chat_format("chatml").with_options("reply", "full")
    rendered = chat_format.render(Conversation(CONVERSATION.messages[:4]))
    assert [(text, int(kind.role)) for text, kind in zip(rendered.texts, rendered.kinds, strict=True)][9:] == [
        ("<|im_start|>assistant\n", 4),
        ("Because {{ x }}.", 2),
        ("<|im_end|>\n", 2),
    ]
    assert get_chat_format("chatml").with_options(None, "unroll").loss == "reply"
    assert get_chat_format("chatml").loss == "turn"
