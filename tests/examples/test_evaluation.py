"""Results of lm-eval: main metrics, the table and the `model-index` of a model card, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from checkpoint_convert.verify.receipt import check_receipt, write_receipt
from examples.evaluation.__main__ import write_results
from examples.evaluation.harness import TaskNameError, name_in
from examples.evaluation.results import evaluation_of, read_evaluation, table, with_evaluation
from pretokenizer.files.checksums import write_sha256sums
from tests.paths import ROOT

RECORD: dict[str, Any] = {
    "model_name": "mine",
    "tasks": ["arc_challenge", "gsm8k", "wikitext"],
    "limit": 40,
    "prompts": "the model's chat template",
    "results": {
        "arc_challenge": {
            "alias": "arc_challenge",
            "acc,none": 0.4,
            "acc_norm,none": 0.4573,
            "acc_norm_stderr,none": 0.0146,
        },
        "gsm8k": {
            "exact_match,flexible-extract": 0.5,
            "exact_match,strict-match": 0.0303,
            "exact_match_stderr,strict-match": "N/A",
        },
        "wikitext": {"word_perplexity,none": 12.345},
        "mmlu_anatomy": {"acc,none": 0.2},
    },
    "n-shot": {"arc_challenge": 25, "gsm8k": 5, "wikitext": 0},
}
"""Results as `make evaluate` writes them."""
TABLE = """\
| task | examples in the prompt | metric | value | standard error |
|---|---|---|---|---|
| AI2 Reasoning Challenge | 25 | acc_norm | 45.73 | 1.46 |
| GSM8k | 5 | exact_match | 3.03 |  |
| wikitext | 0 | word_perplexity | 12.35 |  |

Prompts are rendered with the model's chat template. Only the first 40 questions of each task were asked."""


def test_a_table_has_the_named_tasks_with_their_main_metrics() -> None:
    assert table(evaluation_of(RECORD)) == TABLE


def test_a_file_of_lm_eval_itself_is_read_and_another_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"results": {"own": {"acc,none": 0.25, "alias": "own"}}, "config": {"limit": None}}))
    (result,) = read_evaluation(path).results
    assert (result.task, result.num_few_shot, result.metric, result.value) == ("own", None, "acc", 25.0)
    for text in ("{}", "[]", "no json", '{"results": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"results\.json: is no results file"):
            read_evaluation(path)


def test_the_front_matter_gets_a_model_index_and_keeps_its_other_values() -> None:
    card = with_evaluation("---\nlicense: mit\n---\n\n# mine\n\nText.\n", "mine", evaluation_of(RECORD))
    header, body = card.removeprefix("---\n").split("\n---\n", 1)
    values = yaml.safe_load(header)
    assert values["license"] == "mit"
    (model,) = values["model-index"]
    assert model["name"] == "mine"
    assert model["results"][0] == {
        "task": {"type": "text-generation", "name": "Text Generation"},
        "dataset": {
            "name": "AI2 Reasoning Challenge (25-Shot)",
            "type": "ai2_arc",
            "config": "ARC-Challenge",
            "split": "test",
            "args": {"num_few_shot": 25, "limit": 40},
        },
        "metrics": [{"type": "acc_norm", "value": 45.73, "name": "normalized accuracy"}],
        "source": {"url": "https://github.com/EleutherAI/lm-evaluation-harness", "name": "lm-evaluation-harness"},
    }
    assert body.endswith(
        f"# mine\n\nText.\n\n<!-- evaluation -->\n## Evaluation\n\n{TABLE}\n<!-- end of evaluation -->\n"
    )


def test_later_results_replace_earlier_ones_and_text_after_them_stays() -> None:
    once = with_evaluation("# mine\n", "mine", evaluation_of(RECORD)) + "\nMore.\n"
    assert with_evaluation(once, "mine", evaluation_of(RECORD)) == once


def test_results_in_a_folder_leave_its_receipt_sound(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "README.md").write_text("# hf\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    write_sha256sums(folder)
    write_receipt(folder, tmp_path / "run" / "iter_0000001")
    write_results(folder, "mine", RECORD)
    outcome = check_receipt(folder)
    assert (outcome.problems, outcome.missing) == ([], [])
    assert outcome.sound == [f"model {folder}, 3 files"]
    (folder / "evaluation.json").write_text("{}")
    assert check_receipt(folder).problems == [
        f"{folder / 'evaluation.json'}: differs from its sum in {folder / 'SHA256SUMS'}"
    ]


def test_the_name_in_a_task_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("include: base.yaml\ntask: own_capitals\nprocess_docs: !function code.run\n")
    assert name_in(path) == "own_capitals"
    path.write_text("dataset_path: json\n")
    with pytest.raises(TaskNameError, match=r"own\.yaml: is no task file"):
        name_in(path)
    with pytest.raises(TaskNameError, match=r"gone\.yaml: cannot be read"):
        name_in(tmp_path / "gone.yaml")


def test_a_missing_lm_eval_is_one_sentence(tmp_path: Path) -> None:
    code = (
        "import sys, runpy; sys.modules['lm_eval'] = None; sys.argv = ['evaluation', 'x', '--tasks', 'hellaswag'];"
        "import importlib.util as util; find = util.find_spec;"
        "util.find_spec = lambda name, *a: None if name == 'lm_eval' else find(name, *a);"
        "runpy.run_module('examples.evaluation', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "error: lm-eval is not installed; run: pip install 'oasst-megatron[eval]'\n",
    )
