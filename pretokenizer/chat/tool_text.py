"""Reasoning, tool calls and tools as text, for the built-in format chatml. Qwen's chat templates use the same form.

<think>                            <tool_call>
Two and two makes four.            {"name": "get_weather", "arguments": {"city": "Oslo"}}
</think>                           </tool_call>

4.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.roles import Role
from pretokenizer.chat.shown import shown

_TOOLS_BEFORE = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
_TOOLS_AFTER = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def with_tool_text(conversation: Conversation) -> tuple[Message, ...]:
    """Return the conversation's messages with tools, reasoning and tool calls written into their texts.

    The list of tools is in the system message, which is added if there is none. Reasoning and tool calls are in the
    message that has them.
    """
    messages = [message._replace(text=spoken(message), fields=None) for message in conversation.messages]
    if conversation.tools:
        listed = tools_text(conversation.tools)
        if messages and messages[0].role is Role.SYSTEM:
            messages[0] = messages[0]._replace(text=f"{messages[0].text}\n\n{listed}")
        else:
            messages.insert(0, Message(Role.SYSTEM, listed))
    return tuple(messages)


def spoken(message: Message) -> str:
    """Return a message's text with its reasoning before it and its tool calls after it, as chatml writes them."""
    keys = shown(message)
    content = keys.get("content", "")
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    if keys.get("reasoning_content"):
        text = f"<think>\n{keys['reasoning_content']}\n</think>\n\n{text}"
    calls = [call_text(call.get("function", call)) for call in keys.get("tool_calls") or ()]
    return "\n".join([*([text] if text else []), *calls])


def call_text(function: Mapping[str, Any]) -> str:
    """Return a tool call as a `<tool_call>` block. Arguments that are already JSON text are inserted unchanged."""
    arguments = function.get("arguments", {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    name = json.dumps(function["name"], ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {written}}}\n</tool_call>'


def tools_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return the part of the system message that lists the tools and explains how to call them."""
    return _TOOLS_BEFORE + "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools) + _TOOLS_AFTER


CHATML_TEMPLATE = (
    "{% macro spoken(message) %}"
    "{% set thought = message['reasoning_content'] or message['thinking'] %}"
    "{% if thought %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% for call in message['tool_calls'] or [] %}"
    "{% set call = call['function'] or call %}"
    "{{ '\\n' if not loop.first or message['content'] or thought }}"
    "{{ '<tool_call>\\n{\"name\": ' + call['name'] | tojson + ', \"arguments\": ' }}"
    "{{ call['arguments'] if call['arguments'] is string else call['arguments'] | default({}) | tojson }}"
    "{{ '}\\n</tool_call>' }}{% endfor %}{% endmacro %}"
    "{% set listed = namespace(text='') %}"
    "{% if tools %}{% set listed.text %}{{ "
    + json.dumps(_TOOLS_BEFORE)
    + " }}{% for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}{{ "
    + json.dumps(_TOOLS_AFTER)
    + " }}{% endset %}"
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n' + listed.text + '<|im_end|>\\n' }}{% endif %}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% set turn = '<|im_start|>' + message['role'] + '\\n' + spoken(message) %}"
    "{% if loop.first and tools and message['role'] == 'system' %}"
    "{% set turn = turn + '\\n\\n' + listed.text %}{% endif %}"
    "{% set turn = turn + '<|im_end|>\\n' %}"
    "{% if message['role'] == 'assistant' and message.get('train', true) and message.get('weight', 1) != 0 %}"
    "{% generation %}{{ turn }}{% endgeneration %}"
    "{% else %}{{ turn }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The chatml format with reasoning and tools as a Jinja template, which every exported model carries."""
