"""A few cases of each part of the fault campaign, and readers that hypothesis tries with any input.

`python -m tests.faults` runs the whole campaign.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretokenizer.chat.conversation import Conversation
from pretokenizer.config.yaml_config import ConfigError, from_mapping
from pretokenizer.sources import SOURCES, make_source
from pretokenizer.sources.source import BadRecord, InputRecord
from tests.faults.fuzz import CORPUS, fuzz_blindly
from tests.faults.fuzz_targets import ALLOWED, TARGETS, read_compressed, read_json, read_pickle, read_shard
from tests.paths import ROOT

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


def run(*words: str) -> str:
    """Run a campaign with few cases and return its output. A problem fails the assertion."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", f"tests.faults.{words[0]}", *words[1:]]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_kills_of_the_pretokenizer() -> None:
    shown = run("kill", "--runs", "3", "--only", "pretokenizer", "--seed", "11")
    assert shown.count(": 1 kills") == 3
    assert shown.count("; 0 problems (seed 11") == 3


@pytest.mark.long
def test_kills_of_the_trainer() -> None:
    shown = run("kill", "--runs", "2", "--only", "trainer", "--variants", "1", "--seed", "12")
    assert "trainer, DP2, saves sync: 2 kills" in shown


@pytest.mark.long
def test_kills_of_the_converter() -> None:
    assert run("kill", "--runs", "2", "--only", "converter", "--variants", "1", "--seed", "13").count("2 kills") == 1


def test_full_disks() -> None:
    shown = run("disk", "--runs", "2", "--only", "pretokenizer", "--seed", "14")
    assert "skipped" in shown or shown.count("2 full disks") == 2


@pytest.mark.long
def test_damage() -> None:
    assert run("corrupt", "--runs", "65", "--seed", "15").count("; 0 problems") == 13


def test_hostile_files() -> None:
    shown = run("hostile", "--every", "80")
    assert shown.count("; 0 problems") == 8


@pytest.mark.long
def test_planted_tokens() -> None:
    assert "7 commands" in run("secrets")


def test_dependencies_have_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    named = [word for group in groups for word in group if "[" not in word and not word.startswith("types-")]
    unbounded = [word for word in named if "==" not in word and not (">=" in word and ",<" in word)]
    assert unbounded == []


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_inputs_that_fuzzing_found_stay_fixed(target: str) -> None:
    for path in sorted((CORPUS / target).glob("*")):
        try:
            TARGETS[target](path.read_bytes())
        except ALLOWED:
            continue


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_second_of_blind_fuzzing(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.fuzz.CORPUS", tmp_path)
    tried, problems = fuzz_blindly(target, 0.5, seed=16)
    assert tried > 0
    assert problems == []


@pytest.mark.slow
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
