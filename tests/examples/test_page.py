"""report.html shows a run's data, curves and samples, escapes all texts, and gives no error in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.evaluation.results import Evaluation, Result
from examples.page.__main__ import Model, with_link, write_page
from tests.browser import PHONE_WIDTH, look_at, needs_chromium

pytest.importorskip("matplotlib")


def sampled(name: str, text: str) -> dict[str, Any]:
    """Return a sampling report with one prompt and one answer."""
    results = [{"sampling_config": "greedy", "sampling_params": {}, "outputs": [text]}]
    return {"model_name": name, "prompts": [{"prompt": "1 < 2?", "results": results}]}


SAMPLES = [sampled("mine", "<script>alert(1)</script>"), sampled("base", "I do not know.")]
EVALUATION = Evaluation([Result("arc_challenge", 25, "acc_norm", 45.678, 1.25)], limit=40)
STATS = {
    "splits": {
        "train": [
            {"name": "gsm8k", "accepted": 1200, "tokens": 50000, "loss_tokens": 30000, "skipped": {"too short": 7}}
        ]
    },
    "records": [
        {
            "name": "gsm8k",
            "records": 1300,
            "train": 1200,
            "val": 90,
            "left_out": {"too short": 7},
            "bad": {"no text": 3},
        }
    ],
    "totals": {"train": {"role_tokens": {"user": 20000, "assistant": 30000}}},
    "lengths": {"train": {"bounds": [0, 16, 64], "counts": [100, 1100]}},
}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Return the page of one run of three iterations with one evaluation."""
    run, data = tmp_path / "stage1", tmp_path / "data"
    checkpoint = run / "iter_0000003"
    checkpoint.mkdir(parents=True)
    data.mkdir()
    (data / "stats.json").write_text(json.dumps(STATS))
    step = {"lr": 1e-5, "grad_norm": 1.5, "num_tokens": 1000, "tokens_per_second": 900.0}
    lines = [{"iteration": i, "lm_loss": 4.0 - i, **step} for i in (1, 2, 3)]
    lines.append({"iteration": 3, "eval": {"val": {"loss": 1.25, "ppl": 3.4903, "token_accuracy": 0.625}}})
    nothing = {"loss": None, "ppl": None, "token_accuracy": None}
    lines.append({"iteration": 3, "eval": {"silent": nothing}})
    lines.append({"iteration": 3, "test": {"held_out": {"loss": 1.5, "ppl": 4.4817, "token_accuracy": 0.5}}})
    (run / "launches.jsonl").write_text('{"iteration": 0}\n{"iteration": 2}\n')
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "latest_checkpointed_iteration.txt").write_text("3")
    section = {"filename_prefix": "mix", "datasets": ["gsm8k"], "cache_dir": None}
    (data / "manifest.json").write_text(json.dumps({"section": section}))
    settings = {"lr": 3e-4, "packing": False, "train_data_path": ["0.5", str(data / "mix-train")]}
    (checkpoint / "train_config.yaml").write_text(yaml.safe_dump(settings))
    for name in ("metadata.json", "model_config.yaml", "SHA256SUMS"):
        (checkpoint / name).write_text("{}")
    (checkpoint / "train_state.json").write_text('{"world_size": 4}')
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "README.md").write_text("---\nlicense: mit\n---\n\n# my-model\n\nText.\n")
    path = tmp_path / "report.html"
    write_page(path, Model("my model", [run], tmp_path / "hf", SAMPLES, EVALUATION))
    return path


def test_a_page_shows_data_training_samples_evaluation_and_commands(page: Path) -> None:
    text = page.read_text()
    for expected in (
        "<h1>my model</h1>",
        '<td class="number">1,200</td><td class="number">50,000</td>',
        "<td>too short: 7</td>",
        '<td>gsm8k</td><td class="number">1,300</td><td class="number">1,200</td><td class="number">90</td>',
        "<td>no text: 3</td>",
        "3 iterations, 3,000 tokens, loss 3.000 at first and 1.000 at last",
        '<td class="number">1.2500</td><td class="number">3.49</td><td class="number">62.5 %</td>',
        '<td>silent</td><td class="number" colspan="3">not finite</td>',
        '<td>held_out (test)</td><td class="number">1.5000</td><td class="number">4.482</td>',
        "Resumed after iteration 2 (dashed lines).",
        '<summary class="prompt">1 &lt; 2?</summary>',
        "<b>base, greedy</b>I do not know.</div>",
        '<td>AI2 Reasoning Challenge</td><td class="number">25</td><td>acc_norm</td><td class="number">45.68</td>',
        "Only the first 40 questions of each task were asked",
        "stage1, shards</td>",
        # SHA-256 of the text {}
        '<code title="44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a">44136fa355b3678a</code>',
        "python -m pretokenizer build --configs mix.yaml",
        "mix:\n  filename_prefix: mix\n  datasets:\n  - gsm8k\n",
        "torchrun --nproc_per_node 4 -m megatron_train",
        "python -m checkpoint_convert to-hf",
    ):
        assert expected in text
    assert text.count("<svg") == 5
    assert "lr: 0.0003" in text and "packing" not in text


def test_a_page_holds_no_script_and_loads_nothing(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert 'src="' not in text and "@import" not in text


def test_a_run_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        write_page(tmp_path / "x.html", Model("x", [tmp_path]))


def test_the_model_card_links_to_the_page_once(page: Path) -> None:
    folder = page.parent / "hf"
    assert (folder / "report.html").read_text() == page.read_text()
    card = (folder / "README.md").read_text()
    link = "[Report](report.html): data, training, samples, evaluation and lineage on one page."
    assert card == f"---\nlicense: mit\n---\n\n# my-model\n\n{link}\n\nText.\n"
    assert with_link(card) == card
    assert with_link("# title\n\nText.\n") == f"# title\n\n{link}\n\nText.\n"
    assert with_link("Text.\n") == f"{link}\n\nText.\n"


@needs_chromium
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_the_page_without_scrolling_sideways_and_every_text_is_readable(
    page: Path, tmp_path: Path, is_dark: bool
) -> None:
    look = look_at(page, tmp_path / "browser", PHONE_WIDTH, is_dark)
    assert (look.is_dark, look.faint, look.errors) == (is_dark, [], [])
    assert look.scroll_width <= PHONE_WIDTH
    assert look.num_texts > 60


@needs_chromium
def test_a_wide_page_a_faint_text_and_a_console_error_are_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><body style='background: #fff'><p style='width: 700px; color: #888'>faint</p><p>good</p>"
        "<script>undefined_function()</script>"
    )
    look = look_at(path, tmp_path / "browser")
    assert look.scroll_width > 700
    assert look.faint == ["3.54 p: faint"]
    assert len(look.errors) == 1 and "undefined_function" in look.errors[0]
