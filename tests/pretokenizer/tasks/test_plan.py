"""A plan has the same tasks and fingerprint on every machine."""

from pathlib import Path

import pytest

from pretokenizer.config.settings import PretokenizeConfig
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.tasks.context import load_plan_tokenizer
from pretokenizer.tasks.plan import make_plan, tokenizer_file
from pretokenizer.tokenizer.base import TokenizerError
from tests.pretokenizer.conftest import make_toy_config, question_records, write_jsonl


@pytest.fixture
def config(tmp_path: Path) -> PretokenizeConfig:
    """Return settings with two data sets that share random numbers, one read as a whole, and one cut into spans."""
    talk = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    row = {"question": {"full_text": "q"}, "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": 0}
    pairs = [{"translation": {"en": "a", "ja": "b"}}] * 3
    write_jsonl(tmp_path / "data/vicuna/a.jsonl", [talk] * 3)
    write_jsonl(tmp_path / "data/webgpt/a.jsonl", [row])
    write_jsonl(tmp_path / "data/ted_trans_en-ja/train.jsonl", pairs)
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(10))
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(1))
    return make_toy_config(tmp_path, ["gsm8k", "vicuna", "webgpt", "ted_trans_en-ja"])


def test_data_sets_that_share_random_numbers_are_one_task(config: PretokenizeConfig) -> None:
    plan = make_plan(config, 200)
    names = [[config.entries[piece.dataset].name for piece in task.pieces] for task in plan.tasks]
    assert names[0] == ["vicuna", "ted_trans_en-ja"]
    assert names[1:] == [["gsm8k"]] * 5 + [["webgpt"]]
    assert [task.index for task in plan.tasks] == list(range(7))
    val = [piece for task in plan.tasks for piece in task.pieces if piece.is_val]
    assert [piece.files[0][0] for piece in val] == [1]  # the file that follows those of train


def test_fingerprint(config: PretokenizeConfig, tmp_path: Path) -> None:
    fingerprint = make_plan(config).fingerprint()
    assert make_plan(config).fingerprint() == fingerprint
    elsewhere = make_toy_config(tmp_path, config.datasets, output_dir="other", filename_prefix="x")
    assert make_plan(elsewhere).fingerprint() == fingerprint
    assert make_plan(make_toy_config(tmp_path, config.datasets, rng_seed=1)).fingerprint() != fingerprint
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(2))
    assert make_plan(config).fingerprint() != fingerprint


def test_tokens_a_format_needs(config: PretokenizeConfig, tmp_path: Path) -> None:
    tokenizer, chat_format = load_plan_tokenizer(make_toy_config(tmp_path, ["gsm8k"], chat_format="oasst"))
    assert chat_format.name == "oasst" and list(tokenizer.special_tokens)[-6:] == list(chat_format.special_tokens)
    with pytest.raises(
        ConfigError, match=r"chatml needs <\|im_end\|>, which .* lacks; add them to vocab_extra_ids_list"
    ):
        load_plan_tokenizer(make_toy_config(tmp_path, ["gsm8k"], vocab_extra_ids_list="<|im_start|>"))


def test_where_the_tokenizer_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = make_toy_config(tmp_path, ["gsm8k"], vocab_file="examples/data/tokenizer/sample.model")
    assert tokenizer_file(shipped).is_file()
    with pytest.raises(TokenizerError, match=r"data/none\.model: no such tokenizer file\. Copy .* TOKENIZER=sample"):
        tokenizer_file(make_toy_config(tmp_path, ["gsm8k"], vocab_file="data/none.model"))


def test_chatml_tokens_that_a_template_spells_are_added(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}",
        encoding="utf-8",
    )
    config = make_toy_config(tmp_path, ["gsm8k"], chat_format=str(template), vocab_extra_ids_list=None)
    tokenizer, chat_format = load_plan_tokenizer(config)
    assert tokenizer.token_to_id("<|im_end|>") == 3006 and chat_format.end_of_turn == "<|im_end|>"
