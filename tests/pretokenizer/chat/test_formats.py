"""chat_format.py: literal text, and the same text from the Jinja templates through transformers."""

from typing import Any

import pytest
import tokenizers

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import CHAT_FORMATS, ChatFormatError, get_chat_format
from pretokenizer.chat.roles import Role

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
    assert get_chat_format(name).render(CONVERSATION) == expected


def as_hf_messages(conversation: Conversation) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for message in conversation.messages:
        mark = {"train": False} if message.train is False else {}
        messages.append({"role": message.role.template_name, "content": message.text, **mark})
    return messages


def hf_tokenizer() -> Any:
    """A transformers tokenizer over characters, so that offsets are plain."""
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
    turns = chat_format.render(CONVERSATION)
    messages = as_hf_messages(CONVERSATION)
    text = hf.apply_chat_template(messages, chat_template=chat_format.hf_chat_template, tokenize=False)
    assert text == "".join(turn for turn, _ in turns)
    prompt = hf.apply_chat_template(
        messages[:5], chat_template=chat_format.hf_chat_template, tokenize=False, add_generation_prompt=True
    )
    asked = chat_format.render(Conversation(CONVERSATION.messages[:5]))
    assert prompt == "".join(turn for turn, _ in asked) + chat_format.generation_prompt
    encoded = hf.apply_chat_template(
        messages, chat_template=chat_format.hf_chat_template, return_dict=True, return_assistant_tokens_mask=True
    )
    loss = [int(role.gets_loss) for turn, role in turns for _ in turn.encode()]
    assert encoded["assistant_masks"] == loss


def test_a_reply_ends_with_the_end_of_turn_and_begins_with_the_prompt() -> None:
    for chat_format in CHAT_FORMATS.values():
        (reply, _), *_ = chat_format.render(Conversation((Message(Role.ASSISTANT, "x"),)))
        assert reply.startswith(chat_format.generation_prompt)
        assert reply.rstrip("\n").removesuffix(chat_format.end_of_turn).rstrip(" ").endswith("x")
        assert chat_format.end_of_turn in chat_format.special_tokens


def test_unknown_format_names_those_there_are() -> None:
    with pytest.raises(
        ChatFormatError, match=r"chat_format 'chatlm' is not known \(did you mean 'chatml'\?\); there are"
    ):
        get_chat_format("chatlm")
