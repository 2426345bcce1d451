"""The registry of sources, and the behaviour that all sources share."""

import re
from typing import Any

import pytest

from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.sources import SOURCES, make_source
from tests.pretokenizer.sources.conftest import Convert

REPORT_NAMES = {
    "alpaca": "AlpacaBaseDataset",
    "code_alpaca": "AlpacaBaseDataset",
    "dolly15k": "DatabricksDolly15k",
    "dolly15k_multilingual": "Dolly15kMultilingual",
    "grade_school_math_instructions": "InstructionDataset (grade_school_math_instructions)",
    "gsm8k": "QADataset",
    "joke": "JokeExplaination (joke)",
    "megacode2": "InstructionDataset (megacode2)",
    "megacode3": "InstructionDataset (megacode3)",
    "oa_leet10k": "InstructionDataset (oa_leet10k)",
    "oasst_export": "ListDataset",
    "orca-chat": "OrcaChat (orca-chat)",
    "ted_trans_en-ja": "TEDTalk",
    "ted_trans_zh-ja": "TEDTalk",
    "vicuna": "Vicuna (vicuna)",
    "webgpt": "WebGPT (webgpt)",
    "wmt2019_zh-en": "WMT2019",
}


def test_report_names_are_the_originals() -> None:
    assert {name: make_source(name, {}).report_name for name in REPORT_NAMES} == REPORT_NAMES
    assert set(SOURCES) - set(REPORT_NAMES) == {"ikala", "messages", "prompt_response", "sharegpt"}


def test_unknown_names_and_options_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"no data set 'gsm8'.*did you mean 'gsm8k'.*choose one of alpaca, "):
        make_source("gsm8", {})
    with pytest.raises(ConfigError, match=r"oasst_export: unknown option 'topk' \(did you mean 'top_k'\?\)"):
        make_source("oasst_export", {"topk": 1})
    with pytest.raises(ConfigError, match=r"gsm8k: unknown option 'lang'"):
        make_source("gsm8k", {"lang": "en"})
    with pytest.raises(ConfigError, match="top_k: expected a whole number, found 'one'"):
        make_source("oasst_export", {"top_k": "one"})


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"messages", "sharegpt", "prompt_response", "ikala"}))
def test_a_record_of_another_form_is_named(name: str, convert: Convert) -> None:
    (found,) = convert(name, [{"surprise": 1}])
    assert re.fullmatch(r"bad: (lacks the key .\w+.|neither a message tree nor a message); .*: surprise", found)


@pytest.mark.parametrize("name", sorted(SOURCES))
@pytest.mark.parametrize("value", [None, 7, "x", [], {}, [[]], {"full_text": 1}, [{"from": "human"}], {"role": {}}])
def test_no_value_stops_a_source(name: str, value: Any, convert: Convert) -> None:
    keys = "question answer joke explaination instruction input output INSTRUCTION RESPONSE METADATA USER ASSISTANT"
    keys += " context response conversation conversations messages prompt tree_state message_id parent_id translation"
    keys += " answer_0 answer_1 score_0 score_1 system lang"
    assert len(convert(name, [dict.fromkeys(keys.split(), value)])) <= 1
