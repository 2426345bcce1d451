"""Sections are merged, and every shipped mix and card resolves to literal settings."""

from pathlib import Path

import pytest

from pretokenizer.config.sections import load_sections, merge_sections
from pretokenizer.config.settings import make_config
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.sources import make_source
from pretokenizer.tasks.context import load_plan_tokenizer
from tests.pretokenizer.conftest import SHARED, needs_shared

MIXES = [
    "oasst_pre10_min25",
    "oasst_pre10",
    "oasst_top1",
    "oasst-top1",
    "reference-data",
    "datasets",
    "oasst-mix",
    "demo_stage1",
    "demo_stage2",
]
CARDS = [
    "llama2-70b-oasst-sft-v10_stage1",
    "llama2-70b-oasst-sft-v10_stage2",
    "falcon-7b-sft-top1-696",
    "oasst-sft-4-pythia-12b-epoch-3.5",
    "redpajama-3b-chat",
    "stablelm-7b-sft-v7-epoch-3",
]
TRAINERS = ["falcon-7b", "reference-pythia-12b", "redpajama-3b", "stablelm-7b"]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("tokenizer", ["llama2", "falcon", "gpt_neox", "falcon_oasst", "gpt_neox_oasst", "sample"])
def test_every_mix_goes_with_every_tokenizer(mix: str, tokenizer: str) -> None:
    config, _ = make_config(merge_sections(load_sections(), [mix, tokenizer]), mix)
    assert [make_source(entry.name, entry.options).name for entry in config.entries]
    assert config.output_folder.name.endswith(f"_{tokenizer}") and config.vocab_file


@pytest.mark.parametrize("card", CARDS)
def test_every_card_has_a_section_of_its_name(card: str) -> None:
    config, _ = make_config(merge_sections(load_sections(), [card]), card)
    assert config.vocab_file and config.entries


@pytest.mark.parametrize("card", CARDS)
def test_every_card_goes_with_the_sample_tokenizer(card: str) -> None:
    config, _ = make_config(merge_sections(load_sections(), [card, "sample"]), card)
    tokenizer, chat_format = load_plan_tokenizer(config)
    assert chat_format.name == ("chatml" if card.startswith("llama2") else "oasst")
    added = list(tokenizer.special_tokens.items())[-len(chat_format.special_tokens) :]
    assert added == [(token, 3005 + i) for i, token in enumerate(chat_format.special_tokens)]


@needs_shared
def test_added_tokens_have_the_cards_ids() -> None:
    vocab_file = str(SHARED / "tokenizers/llama2/tokenizer.model")
    merged = merge_sections(load_sections(), ["oasst_top1", "llama2"])
    tokenizer, _ = load_plan_tokenizer(make_config({**merged, "vocab_file": vocab_file}, "s")[0])
    assert [tokenizer.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>")] == [32005, 32006]
    assert tokenizer.vocab_size == 32007


@pytest.mark.parametrize("trainer", TRAINERS)
def test_sections_of_the_trainer_are_ignored(trainer: str) -> None:
    config, warnings = make_config(merge_sections(load_sections(), [trainer, "oasst-top1", "falcon_oasst"]), "s")
    assert "learning_rate" in warnings[0] or "model_name" in warnings[0]
    assert config.filename_prefix == "oasst-top1"


def test_the_main_card_as_resolved() -> None:
    config, warnings = make_config(merge_sections(load_sections(), ["oasst_pre10", "llama2"]), "s")
    assert [(e.name, e.fraction, e.val_split, e.max_val_set) for e in config.entries] == [
        ("megacode2", 0.5, 0.01, 1000),
        ("orca-chat", None, 0.01, 1000),
        ("dolly15k_multilingual", None, 0.05, 300),
        ("oa_leet10k", None, 0.05, 250),
    ]
    assert str(config.output_folder) == "output/oasst_pre10_min25_llama2"
    assert (config.filename_prefix, config.min_assistant_tokens, warnings) == ("oasst_pre10", 25, [])


def test_output_names_default_to_the_section() -> None:
    merged = merge_sections(load_sections(), ["oasst-mix", "gpt_neox"])
    assert (merged["output_dir"], merged["filename_prefix"]) == ("output/oasst-mix", "oasst-mix")
    merged = merge_sections(load_sections(), ["redpajama-3b-chat"])
    assert (merged["output_dir"], merged["filename_prefix"]) == ("output/redpajama-3b-chat", "redpajama-3b-chat")


def test_merging_is_shallow_and_left_to_right(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: {datasets: [gsm8k, joke], rng_seed: 1}\ntwo: {datasets: [webgpt]}\n")
    (tmp_path / "b.yml").write_text("not: {read: 1}\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.yaml").write_text("one: {rng_seed: 3}\n")
    sections = load_sections([tmp_path])
    merged = merge_sections(sections, ["one,two"])
    assert merged["datasets"] == ["webgpt"] and merged["rng_seed"] == 1 and merged["chat_format"] == "chatml"


def test_own_sections_replace_shipped_ones_and_aliases_nest(tmp_path: Path) -> None:
    text = "oasst_top1: {datasets: [joke]}\nboth: {sections: [oasst_top1, third]}\nthird: {sections: [llama2]}\n"
    (tmp_path / "a.yaml").write_text(text)
    merged = merge_sections(load_sections([tmp_path]), ["both"])
    assert merged["datasets"] == ["joke"] and merged["output_dir_suffix"] == "_llama2"


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        (
            "a: {}\n",
            ["oasst_pre1"],
            r"no section 'oasst_pre1' \(did you mean 'oasst_pre10'\?\); .*oasst_top1",
        ),
        ("a: {sections: [b]}\n", ["a"], r"no section 'b' \(in alias 'a'\)"),
        ("a: {sections: [b]}\nb: {sections: [a]}\n", ["a"], "alias 'a' contains itself"),
        ("a: {sections: [joke], rng_seed: 1}\n", ["a"], "alias 'a' must hold a list `sections` and nothing else"),
        ("a: 3\n", ["a"], r"section 'a' must be `key: value` lines or a list of data sets, found 3"),
    ],
)
def test_bad_sections(tmp_path: Path, text: str, names: list[str], message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        merge_sections(load_sections([tmp_path]), names)


def test_folders_and_repeated_sections(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config_dir .*none: no such folder"):
        load_sections([tmp_path / "none"])
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("same: {}\n")
    with pytest.raises(ConfigError, match=r"b\.yaml: section 'same' is also in .*a\.yaml"):
        load_sections([tmp_path])


def test_a_file_stands_for_its_only_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("mine: {datasets: [gsm8k], rng_seed: 3}\n")
    merged = merge_sections(load_sections(), ["one.yaml,sample"])
    assert (merged["datasets"], merged["rng_seed"], merged["output_dir"]) == (["gsm8k"], 3, "output/mine")
    Path("two.yaml").write_text("a: {datasets: [joke]}\nb: {sections: [a, llama2]}\n")
    merged = merge_sections(load_sections(), ["two.yaml:b"])
    assert (merged["datasets"], merged["output_dir_suffix"], merged["output_dir"]) == (["joke"], "_llama2", "output/b")
    with pytest.raises(ConfigError, match=r"two\.yaml: holds the sections a, b; name one as two\.yaml:NAME"):
        merge_sections(load_sections(), ["two.yaml"])
    with pytest.raises(ConfigError, match=r"two\.yaml: has no section 'c'"):
        merge_sections(load_sections(), ["two.yaml:c"])
    with pytest.raises(ConfigError, match=r"three\.yaml: cannot read: No such file"):
        merge_sections(load_sections(), ["three.yaml"])
    assert merge_sections(load_sections(), ["configs/pretokenize/defaults.yaml", "sample"])["chat_format"] == "chatml"
