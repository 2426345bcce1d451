"""Records in the shapes of public data sets are read with the right messages, or refused with the remedy."""

import json
from typing import Any

import pytest

from pretokenizer.sources import make_source
from tests.pretokenizer.sources.conftest import Convert

PAIR = [("user", "q"), ("assistant", "a")]
OPENAI = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
RATED = {"helpfulness": 3, "correctness": 3, "coherence": 4, "complexity": 2, "verbosity": 2}


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"prompt": "q", "prompt_id": "f0", "messages": OPENAI}, id="ultrachat_200k"),
        pytest.param({"id": "0", "data": ["q", "a"]}, id="ultrachat"),
        pytest.param({"conversations": ["q", "a"], "source": "stackexchange"}, id="lima"),
        pytest.param({"id": "x", "messages": OPENAI, "source": "ai2"}, id="tulu-3-sft-mixture"),
        pytest.param({"id": "x", "system_prompt": "", "question": "q", "response": "a"}, id="openorca"),
        pytest.param(
            {"conversation_id": "1", "conversation": OPENAI, "turn": 1, "redacted": False}, id="lmsys-chat-1m"
        ),
        pytest.param({"messages": OPENAI, "source": "smol-magpie-ultra"}, id="smoltalk"),
        pytest.param({"source": "Dove", "conversation": [{"input": "q", "output": "a"}]}, id="capybara"),
        pytest.param({"prompt": "q", "messages": OPENAI, "category": "Summarize"}, id="no_robots"),
        pytest.param({"prompt": "q", "response": "a", **RATED}, id="helpsteer2"),
        pytest.param({"instruction": "q", "response": "a", "conversations": SHAREGPT, "intent": "i"}, id="magpie"),
        pytest.param({"inputs": "q", "targets": "a", "language_code": "yor"}, id="aya"),
        pytest.param({"query": "q", "answer": "a", "resource": "r"}, id="code-feedback-single"),
        pytest.param({"problem": "q", "solution": "a", "messages": OPENAI}, id="numinamath-cot"),
        pytest.param({"problem": "q", "answer": "4", "solution": "s", "messages": OPENAI}, id="openr1-math"),
        pytest.param({"instruction": "q", "input": "", "output": "a"}, id="belle"),
        pytest.param({"kind": "Couplet", "input": "q", "target": "a"}, id="firefly"),
        pytest.param({"conversation": [{"human": "q", "assistant": "a"}]}, id="firefly-multi-turn"),
        pytest.param({"query": "q", "original_question": "p", "response": "a", "type": "t"}, id="metamath"),
        pytest.param(
            {
                "uuid": "u",
                "reasoning": "off",
                "messages": [{"role": "system", "content": "", "tool_calls": []}, *OPENAI],
            },
            id="nemotron-post-training-v2",
        ),
        pytest.param(
            {"input": [{"role": "user", "content": "q"}], "output": "a", "reasoning": "on"},
            id="llama-nemotron-post-training",
        ),
        pytest.param(
            {"id": "c", "request": {"messages": OPENAI[:1]}, "choices": [{"message": OPENAI[1]}]}, id="api-log"
        ),
        pytest.param({"messages": OPENAI[:1], "choices": [{"index": 0, "message": OPENAI[1]}]}, id="api-answer"),
        pytest.param(
            {"contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}]},
            id="gemini",
        ),
        pytest.param(
            {
                "key": "r1",
                "request": {"contents": [{"parts": [{"text": "q"}]}], "generationConfig": {"temperature": 1}},
                "response": {"candidates": [{"content": {"role": "model", "parts": [{"text": "a"}]}}]},
            },
            id="gemini-batch",
        ),
        pytest.param({"prompt": "q", "choices": [{"text": "a", "finish_reason": "stop"}]}, id="completions-api"),
        pytest.param({"input": {"messages": OPENAI[:1]}, "output": OPENAI[1]}, id="langfuse"),
        pytest.param(
            {"chat": "USER: q\n\n\nASSISTANT: a <|endoftext|>\n\n\n", "system": ""}, id="glaive-without-tools"
        ),
    ],
)
def test_a_question_and_an_answer(record: dict[str, Any], convert: Convert) -> None:
    assert convert("messages", [record]) == [[PAIR]]


def test_weights_of_openhermes_and_slimorca(convert: Convert) -> None:
    turns = [
        {"from": "system", "value": "s", "weight": None},
        {"from": "human", "value": "q", "weight": 0.0},
        {"from": "gpt", "value": "a", "weight": 1.0},
    ]
    expected = [("system", "s"), ("assistant_no_loss", "q"), ("assistant", "a")]
    assert convert("messages", [{"conversations": turns, "system_prompt": None, "idx": None}]) == [[expected]]


def test_losses_of_agentinstruct(convert: Convert) -> None:
    turns = [
        {"from": "human", "loss": None, "value": "rules"},
        {"from": "gpt", "loss": False, "value": "Ok"},
        {"from": "human", "loss": None, "value": "q"},
        {"from": "gpt", "loss": True, "value": "a"},
    ]
    assert convert("messages", [{"id": "os_0", "conversations": turns}]) == [
        [[("user", "rules"), ("assistant_no_loss", "Ok"), *PAIR]]
    ]


GLAIVE_SYSTEM = 'SYSTEM: You have functions -\n{\n "name": "rate"\n}\n'
GLAIVE_CHAT = """USER: q


ASSISTANT: <functioncall> {"name": "rate", "arguments": '{"base": "USD"}'} <|endoftext|>


FUNCTION RESPONSE: {"rate": 0.85}


ASSISTANT: It is 0.85. <|endoftext|>


"""


def test_glaive_function_calling(convert: Convert) -> None:
    system = ("system", 'You have functions -\n{\n "name": "rate"\n}')
    call = ("assistant", """<functioncall> {"name": "rate", "arguments": '{"base": "USD"}'}""")
    expected = [system, ("user", "q"), call, ("tool", '{"rate": 0.85}'), ("assistant", "It is 0.85.")]
    assert convert("messages", [{"system": GLAIVE_SYSTEM, "chat": GLAIVE_CHAT}]) == [[expected]]
    assert convert("messages", [{"sample": GLAIVE_SYSTEM + GLAIVE_CHAT.replace("\n\n\n", "\n")}]) == [[expected]]


def test_xlam_function_calling() -> None:
    schema = {"name": "giveaways", "description": "d", "parameters": {"type": {"type": "str", "default": "game"}}}
    answers = [{"name": "giveaways", "arguments": {"type": "beta"}}, {"name": "giveaways", "arguments": {}}]
    record = {"id": 0, "query": "q", "answers": json.dumps(answers), "tools": json.dumps([schema])}
    (conversation,) = make_source("messages", {}).convert(record, "train")
    assert conversation.tools == [{"type": "function", "function": schema}]  # type: ignore[union-attr]
    assert conversation.messages[1].fields == {  # type: ignore[union-attr]
        "tool_calls": [{"type": "function", "function": answer} for answer in answers]
    }


def test_hermes_function_calling_lists_its_tools_twice() -> None:
    schema = {"name": "rate", "description": "d", "parameters": {}}
    turns = [{"from": "system", "value": "<tools>rate</tools>"}, *SHAREGPT]
    source = make_source("messages", {})
    source.convert({"conversations": turns, "tools": json.dumps([schema])}, "train")
    assert source.irregular == {"the system message names the tools that `tools` lists": 1}


def test_swe_smith_and_openhands_trajectories(convert: Convert) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "q"}], "agent": "main"},
        {"role": "assistant", "content": "Look.", "thought": "Look.", "action": "ls", "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "text", "text": "README"}], "tool_call_ids": ["t1"]},
        {"role": "assistant", "content": "a"},
    ]
    expected = [("user", "q"), ("assistant", "Look."), ("tool", "README"), ("assistant", "a")]
    for key in ("messages", "trajectory"):
        assert convert("messages", [{"instance_id": "i", key: turns, "resolved": True}]) == [[expected]]
    turns[1]["thought"] = "Other."
    assert convert("messages", [{"messages": turns}])[0].startswith("bad: the key `thought` is not used; remove it")


def test_anthropic_messages() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "t", "name": "f", "input": {"n": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]},
        {"role": "assistant", "content": "a"},
    ]
    tools = [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
    source = make_source("messages", {})
    (conversation,) = source.convert({"system": "s", "messages": turns, "tools": tools}, "train")
    assert conversation.tools == [  # type: ignore[union-attr]
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    ]
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": {"n": 1}}}
    assert [(m.role.template_name, m.text, m.fields) for m in conversation.messages] == [  # type: ignore[union-attr]
        ("system", "s", None),
        ("user", "q", None),
        ("assistant", "Let me look.", {"tool_calls": [call], "thinking": "hm"}),
        ("tool", "42", {"tool_call_id": "t"}),
        ("assistant", "a", None),
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"input": {"messages": OPENAI[:1]}, "preferred_output": OPENAI[1:], "non_preferred_output": OPENAI[1:]},
        {"prompt": "q", "completion": "a", "label": True},
        {"system": "", "question": "q", "chosen": "a", "rejected": "b"},
    ],
)
def test_preferences_of_openai_kto_and_orca(record: dict[str, Any], convert: Convert) -> None:
    assert convert("messages", [record], preference="chosen") == [[PAIR]]
    assert convert("messages", [record]) == ["bad: a preference pair or rating needs the option `preference: chosen`"]


@pytest.mark.parametrize(
    ("winner", "expected"),
    [
        ("model_a", [[PAIR]]),
        ("model_b", [[[("user", "q"), ("assistant", "b")]]]),
        ("tie (bothbad)", ["two replies without a winner"]),
    ],
)
def test_the_winner_of_the_arena(winner: str, expected: Any, convert: Convert) -> None:
    other = [OPENAI[0], {"role": "assistant", "content": "b"}]
    record = {"model_a": "x", "model_b": "y", "winner": winner, "conversation_a": OPENAI, "conversation_b": other}
    assert convert("messages", [record], preference="chosen") == expected
    assert convert("messages", [record]) == ["bad: a preference pair or rating needs the option `preference: chosen`"]


def test_gemini_functions_and_thoughts() -> None:
    record = {
        "systemInstruction": {"parts": [{"text": "s"}]},
        "tools": [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": {"type": "object"}}]}],
        "contents": [
            {"role": "user", "parts": [{"text": "q"}, {"text": "?"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "hm", "thought": True, "functionCall": None},
                    {"functionCall": {"name": "f", "args": {"n": 1}}, "thoughtSignature": "x"},
                ],
            },
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"r": 42}}}]},
            {"role": "model", "parts": [{"text": "a"}]},
        ],
    }
    (conversation,) = make_source("messages", {}).convert(record, "train")
    assert conversation.tools == [  # type: ignore[union-attr]
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    ]
    call = {"type": "function", "function": {"name": "f", "arguments": {"n": 1}}}
    assert [(m.role.template_name, m.text, m.fields) for m in conversation.messages] == [  # type: ignore[union-attr]
        ("system", "s", None),
        ("user", "q?", None),
        ("assistant", "", {"tool_calls": [call], "thinking": "hm"}),
        ("tool", '{"r": 42}', {"name": "f"}),
        ("assistant", "a", None),
    ]


def test_a_reply_rated_as_bad_is_left_out(convert: Convert) -> None:
    record = {"prompt": "q", "completion": "a", "label": False}
    assert convert("messages", [record], preference="chosen") == ["a rejected reply"]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"messages": OPENAI, "tools": ["f"]}, "a tool that is not JSON; 'f'"),
        ({"messages": OPENAI, "tools": [{}]}, "a tool without a name; {}"),
        ({"messages": OPENAI, "tools": [7]}, "a tool that is not an object; 7"),
        ({"messages": None}, "`messages` is null"),
        ({"messages": [None]}, "a message is not an object; None"),
        (
            {"messages": [{"role": "user", "content": [{"text": "q"}, {"image_url": {}}]}, OPENAI[1]]},
            "message without text; content of type image_url, text",
        ),
        ({"messages": OPENAI[:1], "choices": [{"message": OPENAI[1]}] * 2}, "several `choices`; 2 of them; keep one"),
        ({"choices": [{"message": OPENAI[1]}]}, "`choices` without `messages` or `prompt` of the request"),
        ({"role": "prompter", "text": "q", "parent_id": None}, "one message of a tree; the data set oasst_export"),
        (
            {"segments": [{"label": True, "text": "<s>q"}]},
            "segments in axolotl's input_output form; write them as `mess",
        ),
        (
            {"num_turns": 1, "chat": {"turn_1": {"Human": "q", "MOSS": "a"}}},
            "turns in MOSS's form; write them as `mess",
        ),
        ({"contents": [{"parts": [{"inlineData": {"data": ""}}]}]}, "message without text; a part of type inlineData"),
        ({"contents": [{"role": "user"}]}, "a content without `parts`; {'role': 'user'}"),
        (
            {"request": {"contents": []}, "response": {"candidates": [{"content": {"parts": []}}] * 2}},
            "several `candidates`; 2 of them; keep one",
        ),
        ({"contents": [], "tools": [{"codeExecution": {}}]}, "a tool without `functionDeclarations`; codeExecution"),
        ({"segments": []}, "no known form; docs/data.md lists the forms; its keys: segments"),
        ({"question": "q", "solution": "s", "thinking_trajectories": ["t"]}, "the key `thinking_trajectories` is not"),
        ({"messages": OPENAI, "chat_template_kwargs": {"x": 1}}, "the key `chat_template_kwargs` is not used"),
        ({"messages": OPENAI, "rejected_response": "b"}, "the key `rejected_response` is not used"),
        ({"messages": [OPENAI[0], {**OPENAI[1], "prefix": True}]}, "the key `prefix` is not used"),
        ({"messages": [OPENAI[0], {**OPENAI[1], "tool_responses": [{}]}]}, "the key `tool_responses` is not used"),
        ({"messages": [{"role": "system", "content": "", "tools": "[{}]"}, *OPENAI]}, "the key `tools` is not used"),
        ({"trajectory": [{"role": "system", "text": None, "system_prompt": "s"}]}, "the key `system_prompt` is not"),
        ({"messages": [OPENAI[0], {**OPENAI[1], "reasoning": {"effort": "low"}}]}, "`reasoning` is not text"),
    ],
)
def test_a_shape_that_cannot_be_read_is_refused_by_name(record: dict[str, Any], problem: str, convert: Convert) -> None:
    assert convert("messages", [record])[0].startswith(f"bad: {problem}")


def test_the_reason_does_not_depend_on_the_order_of_sets(convert: Convert) -> None:
    record = {"messages": OPENAI, "history": [["x", "y"]], "images": ["z"], "context": "c"}
    assert convert("messages", [record])[0].startswith("bad: the key `history` is not used")
