"""Readers under hypothesis: any value, any text, any order of bytes gives records or an error of our own."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretokenizer.chat.conversation import Conversation
from pretokenizer.config.yaml_config import ConfigError, from_mapping
from pretokenizer.sources import SOURCES, make_source
from pretokenizer.sources.source import BadRecord, InputRecord
from tests.faults.fuzz_targets import ALLOWED, read_compressed, read_json, read_pickle, read_shard

WORDS = (
    "question answer instruction input output messages conversations role content from value prompt response weight"
    " train system lang text replies tree_state review_result message_id parent_id translation en zh full_text"
    " answer_0 score_0 METADATA CONTEXT INSTRUCTION RESPONSE USER ASSISTANT joke explaination conversation rank deleted"
)
KEYS = WORDS.split()
SETTINGS = settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(KEYS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
RECORDS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=10)


@pytest.mark.parametrize("name", sorted(SOURCES))
@SETTINGS
@given(records=st.lists(RECORDS, max_size=4))
def test_any_record_gives_conversations_or_a_reason(name: str, records: list[dict[str, Any]]) -> None:
    items = [InputRecord(0, row, "train", record) for row, record in enumerate(records)]
    for item, converted in make_source(name, {}).convert_all(items, random.Random(1)):
        assert item.row < len(records)
        assert isinstance(converted, (str, BadRecord)) or all(isinstance(c, Conversation) for c in converted)


@pytest.mark.parametrize("read", [read_json, read_compressed, read_shard, read_pickle])
@SETTINGS
@given(data=st.binary(max_size=400))
def test_any_bytes_give_records_or_an_error(read: Any, data: bytes) -> None:
    try:
        read(data)
    except ALLOWED as error:
        assert str(error)


@SETTINGS
@given(lines=st.lists(VALUES, max_size=5), cut=st.integers(0, 200))
def test_any_json_gives_records_or_an_error(lines: list[Any], cut: int) -> None:
    text = "\n".join(json.dumps(line) for line in lines).encode()
    for data in (text, text[:cut], b"[" + text.replace(b"\n", b",") + b"]"):
        try:
            read_json(data)
        except ALLOWED as error:
            assert "/proc/self/fd/" in str(error)


@SETTINGS
@given(mapping=st.dictionaries(st.sampled_from(["lr", "bf16", "train_data_path", "seq_length"]), VALUES))
def test_any_configuration_gives_settings_or_problems(mapping: dict[str, Any]) -> None:
    from megatron_train.config.flags import config_from_settings

    try:
        config_from_settings({"train_iters": 1, **mapping}, "here")
    except ConfigError as error:
        assert "here" in str(error) or error.args


@SETTINGS
@given(mapping=VALUES)
def test_any_value_is_a_manifest_or_none(mapping: Any) -> None:
    from pretokenizer.files.manifest import DataManifest

    try:
        from_mapping(DataManifest, mapping if isinstance(mapping, dict) else {"splits": mapping}, "manifest.json")
    except ConfigError as error:
        assert str(error).startswith("manifest.json: ")
