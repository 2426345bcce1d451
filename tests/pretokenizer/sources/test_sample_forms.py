"""The sample file of every record form (examples/data/forms) gives the literal messages."""

from typing import Any

import pytest

from pretokenizer.config.settings import DatasetEntry
from pretokenizer.records.locate import locate_files
from pretokenizer.records.reader import read_records
from pretokenizer.sources import make_source
from tests.paths import ROOT

FORMS = ROOT / "examples" / "data" / "forms"
OPTIONS = {"preference": {"preference": "chosen"}, "plain_text": {"loss": "all"}}
TIDE = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "Time of the next high tide.",
        "parameters": {"type": "object", "properties": {"harbour": {"type": "string"}}, "required": ["harbour"]},
    },
}
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"harbour": "Whitby"}}}
EXPECTED: dict[str, list[list[tuple[Any, ...]]]] = {
    "openai_tools": [
        [
            ("system", "Answer in one sentence."),
            ("user", "When is high tide in Whitby?"),
            ("assistant", "", {"tool_calls": [{"id": "call_1", **CALL}]}),
            ("tool", '{"high": "14:05"}', {"tool_call_id": "call_1"}),
            ("assistant", "High tide in Whitby is at 14:05."),
        ]
    ],
    "sharegpt_tools": [
        [
            ("system", "You know the tides."),
            ("user", "When is high tide in Whitby?"),
            ("assistant", "", {"tool_calls": [CALL]}),
            ("tool", '{"high": "14:05"}'),
            ("assistant", "At 14:05."),
        ],
        [("user", "Is the harbour deep?"), ("assistant", "Deep enough for fishing boats.")],
    ],
    "reasoning": [
        [
            ("user", "How many legs do three spiders have?"),
            (
                "assistant",
                "They have 24 legs.",
                {"reasoning_content": "A spider has eight legs. Three times eight is 24."},
            ),
        ],
        [("user", "And two beetles?"), ("assistant", "<think>\nA beetle has six legs.\n</think>\n\nTwelve.")],
    ],
    "alpaca_history": [
        [
            ("system", "You translate."),
            ("user", "Translate 'bread' into German"),
            ("assistant", "Brot"),
            ("user", "Translate into German\nGood night"),
            ("assistant", "Gute Nacht"),
        ]
    ],
    "dolly_context": [
        [
            ("user", "How old is the lighthouse?"),
            ("context", "The lighthouse was built in 1871."),
            ("assistant", "It dates from 1871."),
        ],
        [("user", "Name a sea."), ("assistant", "The Baltic Sea.")],
    ],
    "prompt_completion": [
        [("user", "Say hello."), ("assistant", "Hello!")],
        [("user", "Say hello."), ("assistant_no_loss", "Hello!"), ("user", "Louder."), ("assistant", "HELLO!")],
    ],
    "questions": [
        [("user", "What do bees make?"), ("assistant", "Honey.")],
        [("user", "What do cows give?"), ("assistant", "Milk.")],
    ],
    "input_output_pairs": [
        [
            ("system", "Be brief."),
            ("user", "Which month is longest?"),
            ("assistant", "Seven months have 31 days."),
            ("user", "Name one."),
            ("assistant", "March."),
        ]
    ],
    "preference": [
        [("user", "Where does rain come from?"), ("assistant", "From clouds.")],
        [("user", "Is ice warm?"), ("assistant", "No, it is cold.")],
    ],
    "plain_text": [[("assistant", "The ferry leaves at noon and returns before dark.")]],
    "json_text": [[("user", "Ready?"), ("assistant", "Ready.")]],
    "loss_marks": [
        [
            ("assistant", "Guess my number."),
            ("assistant_no_loss", "Four?"),
            ("user", "Higher."),
            ("assistant", "Seven."),
            ("assistant_no_loss", "Yes!"),
            ("assistant", "I win."),
        ]
    ],
    "irregular": [
        [
            ("user", "Hello?"),
            ("user", "Anyone?"),
            ("assistant", "Yes."),
            ("system", "Now be formal."),
            ("user", "Good day."),
            ("assistant", "Good day to you."),
            ("user", "Bye."),
        ]
    ],
    "csv": [
        [("user", "Name a river."), ("assistant", "The Elbe.")],
        [("user", "Name two, please."), ("assistant", "The Elbe,\nand the Oder.")],
    ],
    "tsv": [[("user", "What swims?"), ("assistant", "Fish.")]],
    "one_object": [
        [("user", "One?"), ("assistant", "One.")],
        [("user", "Two?"), ("assistant", "Two.")],
    ],
}


def conversations_of(name: str) -> list[Any]:
    """Return the conversations of a sample folder, located and read as in a build."""
    source = make_source("messages", OPTIONS.get(name, {}))
    entry = DatasetEntry("messages", data_path=str(FORMS / name))
    (path,) = locate_files(entry, source.layout, FORMS, None).train
    found = []
    for _, record in read_records(path):
        converted = source.convert(record, "train")
        assert isinstance(converted, list), converted
        found += converted
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_messages_of_a_form(name: str) -> None:
    found = [
        [(m.stored_role.name.lower(), m.text, *([m.fields] if m.fields else [])) for m in conversation.messages]
        for conversation in conversations_of(name)
    ]
    assert found == EXPECTED[name]


def test_every_sample_is_tested_and_tools_are_passed_on() -> None:
    assert {path.name for path in FORMS.iterdir()} == set(EXPECTED)
    for name in EXPECTED:
        tools = [TIDE] if name in ("openai_tools", "sharegpt_tools") else None
        assert conversations_of(name)[0].tools == tools
