"""The settings of a build are read from a section, and all problems are reported at once."""

from typing import Any

import pytest

from pretokenizer.config.settings import HF_TRAINER_KEYS, DatasetEntry, RunOptions, make_config, parse_entry
from pretokenizer.config.yaml_config import ConfigError

BASE = {"datasets": ["gsm8k"], "output_dir": "out/x", "filename_prefix": "p"}


def test_values_and_derived_folder() -> None:
    config, warnings = make_config({**BASE, "output_dir_suffix": "_llama2", "min_assistant_tokens": "25"}, "s")
    assert (config.min_assistant_tokens, config.rng_seed, config.chat_format) == (25, 42, "chatml")
    assert str(config.output_folder) == "out/x_llama2" and warnings == []


def test_trainer_keys_are_one_warning_and_unknown_keys_are_errors() -> None:
    _, warnings = make_config({**BASE, "sort_by_length": False, "save_strategy": "epoch"}, "s")
    assert warnings == ["these keys belong to the trainer and are ignored: save_strategy, sort_by_length"]
    with pytest.raises(
        ConfigError, match=r"s: min_asistant_tokens: unknown key \(did you mean 'min_assistant_tokens'\?\)"
    ):
        make_config({**BASE, "min_asistant_tokens": 3}, "s")
    assert "output_dir" not in HF_TRAINER_KEYS


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        make_config({**BASE, "datasets": [], "eval_size": -1, "filename_prefix": "a/b"}, "s")
    assert str(error.value).splitlines() == [
        "s: datasets: the list is empty; name at least one data set",
        "s: eval_size: -1 must not be negative",
        "s: filename_prefix: 'a/b' must be a file name without folders",
    ]
    with pytest.raises(ConfigError, match="s: none of these sections has `datasets`"):
        make_config({"output_dir": "x"}, "s")


@pytest.mark.parametrize(
    ("item", "entry"),
    [
        ("Gsm8k", DatasetEntry("gsm8k")),
        ({"vicuna": None}, DatasetEntry("vicuna")),
        (
            {"oasst_export": {"val_split": 0.05, "top_k": 1, "max_val_set": None}},
            DatasetEntry("oasst_export", val_split=0.05, options={"top_k": 1}),
        ),
    ],
)
def test_entries(item: Any, entry: DatasetEntry) -> None:
    assert parse_entry(item) == (entry, [])


def test_the_misindented_entry_of_a_card_is_understood() -> None:
    entry, warnings = parse_entry({"oasst_export": None, "lang": "en", "val_split": 0.05})
    assert entry == DatasetEntry("oasst_export", val_split=0.05, options={"lang": "en"})
    assert warnings == [
        "datasets: oasst_export: its options are not indented below its name; they are used as if they were"
    ]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (7, "expected a name or `name: {options}`, found 7"),
        ({"a": {"x": 1}, "b": {"y": 2}}, "one entry names several data sets: a, b"),
        ({"a": 3}, "a: expected options, found 3"),
        ({"a": {"val_split": 1.5}}, r"a: val_split 1\.5: give a share below 1, or a whole number"),
        ({"a": {"fraction": 0}}, r"a: fraction 0\.0: must be above 0"),
        ({"a": {"max_val_set": -1}}, "a: max_val_set -1: must not be negative"),
        ({"a": {"weight": 2}}, r"a: weight 2: .* write `fraction: 2`"),
        ({"a": {"val_split": "much"}}, "a: val_split: expected a number, found 'much'"),
    ],
)
def test_bad_entries(item: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_entry(item)


def test_the_data_set_is_named_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse_entry({"joke": {"fraction": 0.0, "size": -1}})
    assert str(error.value).splitlines() == [
        "datasets: joke: fraction 0.0: must be above 0; remove the data set to leave it out",
        "datasets: joke: size -1: must not be negative",
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"part": 0}, "--part and --num_parts"),
        ({"part": 4, "num_parts": 4}, "--part 4: must be from 0 to 3"),
    ],
)
def test_bad_run_options(keys: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunOptions(**keys)  # type: ignore[arg-type]
