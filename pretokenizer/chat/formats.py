"""Chat formats: how a conversation becomes text, and which part of the text belongs to which role. (SHARED)

chatml, used by the llama2-70b card:

    <|im_start|>system\\nBe brief.<|im_end|>\\n
    <|im_start|>user\\nWhy is the sky blue?<|im_end|>\\n
    <|im_start|>context\\n...<|im_end|>\\n
    <|im_start|>assistant\\nScattering.<|im_end|>\\n

(a turn a line here; `\\n` is the only line feed in the text). oasst, of the other four cards, has no line feeds:

    <|system|>Be brief.<|endoftext|><|prompter|>Why is the sky blue?<|endoftext|><|assistant|>Scattering.<|endoftext|>

llama2 is Llama 2's own: `<s>[INST] Why is the sky blue? [/INST] Scattering. </s>`.

A new format is a class here and a line in CHAT_FORMATS; a Jinja template in a file needs neither
(chat_template_file.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.roles import MESSAGE_ROLES, Role
from pretokenizer.config.yaml_config import suggest

TEMPLATE_NAME = "chat_template.jinja"
"""Name of the file with the chat template, beside a tokenizer."""


class ChatFormatError(ValueError):
    """An unknown chat format, or a conversation it cannot express."""


class Turn(NamedTuple):
    """One rendered turn: template text, the message's own text, template text. Only templates hold control tokens."""

    prefix: str
    text: str
    suffix: str
    role: Role


class ChatFormat(ABC):
    """What every format offers. `render` and `hf_chat_template` give the very same text."""

    name: ClassVar[str]
    special_tokens: tuple[str, ...]
    """Control tokens the tokenizer must know as single ids, in the order in which missing ones are added."""
    end_of_turn: str
    """The token at which a reply stops."""
    generation_prompt: str
    """What stands before the reply at inference."""
    hf_chat_template: str
    """Jinja source for transformers; `{% generation %}` marks exactly what gets loss in training."""

    @abstractmethod
    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """The turns of a conversation. Raises ChatFormatError when the format cannot express it."""

    def render(self, conversation: Conversation) -> list[tuple[str, Role]]:
        """The text of each turn and its role; the texts joined are what the model sees."""
        return [(turn.prefix + turn.text + turn.suffix, turn.role) for turn in self.turns(conversation.messages)]


class FramedFormat(ChatFormat):
    """A format whose every turn is a fixed frame around the message's text."""

    frames: ClassVar[dict[Role, tuple[str, str]]]
    """Role -> (prefix, suffix), for every role that the format can express."""

    def turns(self, messages: Iterable[Message]) -> list[Turn]:
        """Return one turn a message, in order. Raises ChatFormatError for a role without a frame."""
        turns = []
        for message in messages:
            if message.role not in self.frames:
                raise ChatFormatError(f"chat_format {self.name} has no form for a {message.role.template_name} message")
            prefix, suffix = self.frames[message.role]
            turns.append(Turn(prefix, message.text, suffix, message.stored_role))
        return turns


class ChatML(FramedFormat):
    """`<|im_start|>ROLE\\nTEXT<|im_end|>\\n` for every turn; no BOS, no EOS, nothing between documents."""

    name = "chatml"
    special_tokens = ("<|im_start|>", "<|im_end|>")
    end_of_turn = "<|im_end|>"
    generation_prompt = "<|im_start|>assistant\n"
    frames: ClassVar = {role: (f"<|im_start|>{role.template_name}\n", "<|im_end|>\n") for role in MESSAGE_ROLES}
    hf_chat_template = (
        "{% for message in messages %}"
        "{% set turn = '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' %}"
        "{% if message['role'] == 'assistant' and message.get('train', true) and message.get('weight', 1) != 0 %}"
        "{% generation %}{{ turn }}{% endgeneration %}"
        "{% else %}{{ turn }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


class Oasst(FramedFormat):
    """Open-Assistant v2. A context is written as its system tag, `<|system|>context: TEXT\\n<|endoftext|>`."""

    name = "oasst"
    special_tokens = (
        "<|prompter|>",
        "<|assistant|>",
        "<|system|>",
        "<|prefix_begin|>",
        "<|prefix_end|>",
        "<|endoftext|>",
    )
    end_of_turn = "<|endoftext|>"
    generation_prompt = "<|assistant|>"
    frames: ClassVar = {
        Role.SYSTEM: ("<|system|>", "<|endoftext|>"),
        Role.USER: ("<|prompter|>", "<|endoftext|>"),
        Role.ASSISTANT: ("<|assistant|>", "<|endoftext|>"),
        Role.CONTEXT: ("<|system|>context: ", "\n<|endoftext|>"),
    }
    hf_chat_template = (
        "{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}"
        "{% set turn = '<|assistant|>' + message['content'] + '<|endoftext|>' %}"
        "{% if message.get('train', true) and message.get('weight', 1) != 0 %}"
        "{% generation %}{{ turn }}{% endgeneration %}"
        "{% else %}{{ turn }}{% endif %}"
        "{% elif message['role'] == 'user' %}{{ '<|prompter|>' + message['content'] + '<|endoftext|>' }}"
        "{% elif message['role'] == 'system' %}{{ '<|system|>' + message['content'] + '<|endoftext|>' }}"
        "{% elif message['role'] == 'context' %}{{ '<|system|>context: ' + message['content'] + '\\n<|endoftext|>' }}"
        "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )


class Llama2(ChatFormat):
    """Llama 2 chat: `<s>[INST] <<SYS>>\\nSYSTEM\\n<</SYS>>\\n\\nUSER [/INST] REPLY </s>`, then `<s>[INST] USER [/INST]
    ...`.

    The system message is part of the first user turn, and so is a context, in front of the question. Texts are
    stripped, as Meta's code does.
    """

    name = "llama2"
    special_tokens = ("<s>", "</s>")
    end_of_turn = "</s>"
    generation_prompt = ""
    hf_chat_template = (
        "{% set ns = namespace(held='') %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}"
        "{% set ns.held = '<<SYS>>\\n' + message['content'] | trim + '\\n<</SYS>>\\n\\n' %}"
        "{% elif message['role'] == 'user' %}"
        "{% set follows = messages[loop.index] if not loop.last else {'role': ''} %}"
        "{% set context = follows['content'] | trim + '\\n\\n' if follows['role'] == 'context' else '' %}"
        "{{ '<s>[INST] ' + ns.held + context + message['content'] | trim + ' [/INST]' }}{% set ns.held = '' %}"
        "{% elif message['role'] == 'assistant' %}"
        "{% set turn = ' ' + message['content'] | trim + ' </s>' %}"
        "{% if message.get('train', true) and message.get('weight', 1) != 0 %}"
        "{% generation %}{{ turn }}{% endgeneration %}"
        "{% else %}{{ turn }}{% endif %}"
        "{% elif message['role'] != 'context' %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
        "{% endfor %}"
    )

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """A user turn holds what stands before its question. Raises ChatFormatError for a question without a reply."""
        turns: list[Turn] = []
        held = ""
        for position, message in enumerate(messages):
            role, text = message.role, message.text
            if role is Role.SYSTEM:
                held = f"<<SYS>>\n{text.strip()}\n<</SYS>>\n\n"
            elif role is Role.USER:
                follows = messages[position + 1] if position + 1 < len(messages) else None
                context = f"{follows.text.strip()}\n\n" if follows and follows.role is Role.CONTEXT else ""
                turns.append(Turn("<s>[INST] ", held + context + text.strip(), " [/INST]", message.stored_role))
                held = ""
            elif role is not Role.CONTEXT:
                turns.append(Turn(" ", text.strip(), " </s>", message.stored_role))
        return turns


CHAT_FORMATS: dict[str, ChatFormat] = {"chatml": ChatML(), "llama2": Llama2(), "oasst": Oasst()}


def get_chat_format(name: str) -> ChatFormat:
    """The format of that name. Raises ChatFormatError listing the names there are."""
    if name not in CHAT_FORMATS:
        known = ", ".join(sorted(CHAT_FORMATS))
        raise ChatFormatError(f"chat_format {name!r} is not known{suggest(name, CHAT_FORMATS)}; there are {known}")
    return CHAT_FORMATS[name]
