"""Chat formats: how a conversation becomes text, and which part of the text belongs to which role. (SHARED)

chatml is the format of the llama2-70b model card. The lines below are for reading; only `\\n` is a line feed:

    <|im_start|>system\\nBe brief.<|im_end|>\\n
    <|im_start|>user\\nWhy is the sky blue?<|im_end|>\\n
    <|im_start|>context\\n...<|im_end|>\\n
    <|im_start|>assistant\\nScattering.<|im_end|>\\n

oasst is the format of the other four model cards. It has no line feeds:

    <|system|>Be brief.<|endoftext|><|prompter|>Why is the sky blue?<|endoftext|><|assistant|>Scattering.<|endoftext|>

llama2 is Llama 2's own: `<s>[INST] Why is the sky blue? [/INST] Scattering. </s>`.

A new format needs a class here and an entry in CHAT_FORMATS. A Jinja template needs neither (jinja_format.py).
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.history import History
from pretokenizer.chat.rendered import Kind, Rendered, TemplateLoss
from pretokenizer.chat.roles import MESSAGE_ROLES, Role
from pretokenizer.chat.tool_text import CHATML_TEMPLATE, with_tool_text
from pretokenizer.config.yaml_config import suggest

TEMPLATE_NAME = "chat_template.jinja"
"""Name of the chat template's file in a tokenizer's folder."""


class ChatFormatError(ValueError):
    """Raised when a chat format is unknown, a chat template is unusable, or a format cannot express a conversation."""


class Turn(NamedTuple):
    """One rendered turn: the format's text before the message, the message's text, the format's text after it."""

    prefix: str
    text: str
    suffix: str
    role: Role
    """Role of the turn's tokens on disk."""


class ChatFormat(ABC):
    """Base class of all chat formats, which turn a conversation into one text with a role for each piece.

    `render` and the Jinja template `hf_chat_template` produce the same text.
    """

    name: ClassVar[str]
    special_tokens: tuple[str, ...]
    """Control tokens that the tokenizer must encode as single ids. Missing ones are added to it in this order."""
    end_of_turn: str
    """The control token that ends a reply. Generation stops at it."""
    generation_prompt: str
    """Text at the end of a prompt at inference, which makes the model start a reply."""
    hf_chat_template: str
    """The format as a Jinja template for transformers; `{% generation %}` marks the text that gets loss in training."""
    loss: TemplateLoss = "turn"
    """Which text of the assistant gets loss: whole turns, replies, or marked text (loss.py)."""
    history: History = "full"
    """Whether a document holds a whole conversation, or one reply after its prompt (history.py)."""
    warnings: tuple[str, ...] = ()
    """Problems of the format that the user should know before training, such as a missing end-of-turn token."""

    @abstractmethod
    def render(self, conversation: Conversation) -> Rendered:
        """Return a conversation as pieces of text with roles. Raises ChatFormatError if it cannot be expressed."""


class TurnFormat(ChatFormat):
    """Base class of the built-in formats: a turn is a message's text between a prefix and a suffix of the format."""

    generation_prompt: str

    def with_options(self, loss: TemplateLoss | None, history: History) -> "TurnFormat":
        """Return a copy of the format with other options for loss and history.

        `loss` chooses between whole turns and replies. None and `marks` mean `turn`, because the marks of these formats
        cover whole turns. A `history` of `unroll` always uses `reply`.
        """
        chosen = copy.copy(self)
        chosen.history = history
        chosen.loss = "reply" if history == "unroll" or loss == "reply" else "turn"
        return chosen

    @abstractmethod
    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Return the turns of messages without `fields`. Raises ChatFormatError if the format cannot express them."""

    def messages(self, conversation: Conversation) -> Sequence[Message]:
        """Return the conversation's messages. Raises ChatFormatError if it has tools or a message has `fields`.

        A format that can express them overrides this method.
        """
        if conversation.tools:
            raise ChatFormatError(f"chat_format {self.name} has no form for tools; use chatml or a chat template")
        for message in conversation.messages:
            if message.fields:
                names = ", ".join(message.fields)
                raise ChatFormatError(f"chat_format {self.name} has no form for {names}; use chatml or a chat template")
        return conversation.messages

    def render(self, conversation: Conversation) -> Rendered:
        """Return a conversation as pieces of text with roles, three for each turn: prefix, text and suffix.

        Raises ChatFormatError if the format cannot express the conversation.
        """
        texts: list[str] = []
        kinds: list[Kind] = []
        for prefix, text, suffix, role in self.turns(self.messages(conversation)):
            header_role = role
            if self.loss == "reply" and role is Role.ASSISTANT and prefix == self.generation_prompt:
                header_role = Role.ASSISTANT_NO_LOSS
            texts += (prefix, text, suffix)
            kinds += (Kind(header_role, False), Kind(role, True), Kind(role, False))
        return Rendered(texts, kinds)


class FramedFormat(TurnFormat):
    """A format whose turns have a prefix and a suffix (the frame) that depend on the message's role alone."""

    frames: ClassVar[dict[Role, tuple[str, str]]]
    """Role -> (prefix, suffix) of its turns, for every role that the format can express."""

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Return one turn for each message, in order. Raises ChatFormatError for a role without a frame."""
        turns = []
        for message in messages:
            if message.role not in self.frames:
                raise ChatFormatError(f"chat_format {self.name} has no form for a {message.role.template_name} message")
            prefix, suffix = self.frames[message.role]
            turns.append(Turn(prefix, message.text, suffix, message.stored_role))
        return turns


class ChatML(FramedFormat):
    """ChatML, which writes `<|im_start|>ROLE\\nTEXT<|im_end|>\\n` for every turn and nothing around the turns."""

    name = "chatml"
    special_tokens = ("<|im_start|>", "<|im_end|>")
    end_of_turn = "<|im_end|>"
    generation_prompt = "<|im_start|>assistant\n"
    frames: ClassVar = {role: (f"<|im_start|>{role.template_name}\n", "<|im_end|>\n") for role in MESSAGE_ROLES}
    hf_chat_template = CHATML_TEMPLATE

    def messages(self, conversation: Conversation) -> Sequence[Message]:
        """Return the messages with reasoning, tool calls and the list of tools in their texts (tool_text.py)."""
        if conversation.tools or any(message.fields for message in conversation.messages):
            return with_tool_text(conversation)
        return conversation.messages


class Oasst(FramedFormat):
    """The format of Open-Assistant v2. A context is a system turn, `<|system|>context: TEXT\\n<|endoftext|>`."""

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


class Llama2(TurnFormat):
    """The format of Llama 2 chat: `<s>[INST] <<SYS>>\\nSYSTEM\\n<</SYS>>\\n\\nUSER [/INST] REPLY </s>`.

    A system message becomes part of the next user turn. A context message, which follows its question, is written
    before the question in the same turn. All texts lose their surrounding white space, as in Meta's code.
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
        """Return one turn for each question and each reply. System and context messages become part of a question.

        Raises ChatFormatError for a tool message.
        """
        turns: list[Turn] = []
        held = ""
        for position, message in enumerate(messages):
            role, text = message.role, message.text.strip()
            if role is Role.SYSTEM:
                held = f"<<SYS>>\n{text}\n<</SYS>>\n\n"
            elif role is Role.USER:
                follows = messages[position + 1] if position + 1 < len(messages) else None
                context = f"{follows.text.strip()}\n\n" if follows and follows.role is Role.CONTEXT else ""
                turns.append(Turn("<s>[INST] ", held + context + text, " [/INST]", message.stored_role))
                held = ""
            elif role is Role.ASSISTANT:
                turns.append(Turn(" ", text, " </s>", message.stored_role))
            elif role is not Role.CONTEXT:
                raise ChatFormatError(f"chat_format llama2 has no form for a {role.template_name} message")
        return turns


CHAT_FORMATS: dict[str, TurnFormat] = {"chatml": ChatML(), "llama2": Llama2(), "oasst": Oasst()}


def get_chat_format(name: str) -> TurnFormat:
    """Return the built-in format called `name`. Raises ChatFormatError that lists the known names if there is none."""
    if name not in CHAT_FORMATS:
        known = ", ".join(sorted(CHAT_FORMATS))
        raise ChatFormatError(f"chat_format {name!r} is not known{suggest(name, CHAT_FORMATS)}; there are {known}")
    return CHAT_FORMATS[name]
