"""lm-eval on an exported folder: the ids that the model sees, and the command from a task file to the model card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.word_model import WORDS, save_word_model

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")

import transformers
from tokenizers import Tokenizer, processors

from examples.evaluation import __main__ as command
from examples.evaluation.harness import Options, evaluate

pytestmark = [pytest.mark.interop, pytest.mark.slow]
RECORDS = [
    {"question": "why sky", "choices": ["blue", "sea"], "answer": 0},
    {"question": "how sea", "choices": ["blue", "sea sky"], "answer": 1},
]
TASKS = {
    "own_choice": "output_type: multiple_choice\ndoc_to_choice: '{{choices}}'\ndoc_to_target: '{{answer}}'",
    "own_answer": "output_type: generate_until\ndoc_to_target: '{{choices[answer]}}'\n"
    "generation_kwargs: {until: ['sea'], max_gen_toks: 3}",
    "own_text": "output_type: loglikelihood_rolling\ndoc_to_target: '{{question}}'",
}
METRICS = {"own_choice": "acc", "own_answer": "exact_match", "own_text": "word_perplexity"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an exported folder whose prompts end in a space, because its tokenizer splits words at spaces."""
    folder = save_word_model(tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    return folder


@pytest.fixture
def tasks(tmp_path: Path) -> list[str]:
    """Return the paths of three task files, one for each kind of request, over two records."""
    data = tmp_path / "records.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    for name, text in TASKS.items():
        source = f"dataset_path: json\ndataset_kwargs: {{data_files: {data}}}\ntest_split: train"
        question = "doc_to_text: ''" if name == "own_text" else "doc_to_text: '{{question}}'"
        metric = f"metric_list:\n- metric: {METRICS[name]}"
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{source}\n{question}\n{text}\n{metric}\n")
    return [str(tmp_path / f"{name}.yaml") for name in TASKS]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Collect the ids of each row that the model is given, without padding."""
    rows: list[list[int]] = []
    original = transformers.LlamaForCausalLM.forward

    def forward(self: Any, input_ids: Any = None, attention_mask: Any = None, **rest: Any) -> Any:
        kept = input_ids if attention_mask is None else input_ids[:, -attention_mask.shape[1] :]
        rows.extend(kept.tolist())
        return original(self, input_ids=input_ids, attention_mask=attention_mask, **rest)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", forward)
    return rows


def words(ids: list[int]) -> str:
    return " ".join(WORDS[number] for number in ids)


def test_a_model_sees_the_chat_template_and_nothing_else(tasks: list[str], seen: list[list[int]], folder: Path) -> None:
    record = evaluate(folder, tasks[:2], Options(batch_size=1))
    assert record["tasks"] == ["own_choice", "own_answer"]
    assert record["prompts"] == "the model's chat template"
    assert record["n-samples"]["own_choice"] == {"original": 2, "effective": 2}
    assert {words(row) for row in seen if len(row) > 1} == {
        "user why sky assistant",
        "user how sea assistant",
        "user how sea assistant sea",  # the choice `sea sky`, whose last token is only predicted
    }


def test_a_text_without_a_prompt_begins_with_the_end_of_a_turn(
    tasks: list[str], seen: list[list[int]], folder: Path
) -> None:
    record = evaluate(folder, tasks[2:], Options(batch_size=1))
    assert sorted(words(row) for row in seen) == ["<end> how", "<end> why"]
    assert record["results"]["own_text"]["word_perplexity,none"] > 1


def test_a_template_with_bos_gets_one_bos(tasks: list[str], seen: list[list[int]], folder: Path) -> None:
    """<pad> plays BOS here: the tokenizer puts it before a text, and the template renders it too."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", 0)])
    tokenizer.save(str(path))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "<pad>"}))
    template = folder / "chat_template.jinja"
    template.write_text("{{ bos_token }} " + template.read_text())
    evaluate(folder, tasks[:2], Options(batch_size=1))
    assert seen and all(row[:2] == [0, WORDS.index("user")] for row in seen if len(row) > 1)


def test_the_command_writes_results_and_card(
    tasks: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "README.md").write_text("# model\n")
    monkeypatch.setattr("sys.argv", ["evaluation", str(folder), "--tasks", tasks[0], "--limit", "1"])
    assert command.main() == 0
    record = json.loads((folder / "evaluation.json").read_text())
    assert (record["tasks"], record["limit"]) == (["own_choice"], 1)
    assert "| own_choice | 0 | acc | " in (folder / "README.md").read_text()
    assert "| own_choice | 0 | acc | " in capsys.readouterr().out


def test_unknown_tasks_and_data_out_of_reach_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    for task, code, expected in (
        ("arc_challeng", 2, "error: --tasks: lm-eval has no task 'arc_challeng' (did you mean 'arc_challenge'?)\n"),
        ("winogrande", 1, "error: the data of winogrande cannot be read: "),
    ):
        command = [sys.executable, "-W", "ignore", "-m", "examples.evaluation", str(folder), "--tasks", task]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code
        assert done.stderr.splitlines(keepends=True)[-1].startswith(expected)
