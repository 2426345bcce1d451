"""`make stage1`, `stage2`, `cards` and `report`: their parts, and one card in miniature from records to an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from examples.cards.__main__ import split_at_dashes
from examples.cards.answer import answer, read_losses
from examples.cards.card import ROOT, load_card
from examples.cards.commands import module, shown
from examples.cards.miniature import Miniature, layout_settings, sample_texts, shrink
from examples.cards.report import MARK, write_report
from examples.cards.simulate import compare, rank_arguments
from megatron_train.config.flags import parse
from megatron_train.config.settings import TrainConfig
from pretokenizer.config.yaml_config import ConfigError


def test_load_card_names_the_known_ones() -> None:
    card = load_card("llama2-70b-oasst-sft-v10")
    assert card.stage("stage2").prefix == "oasst_top1"
    assert card.sections(card.stage("stage1")) == ["oasst_pre10_min25", "llama2"]
    with pytest.raises(ConfigError, match=r"no such card.*falcon-7b-sft-top1-696"):
        load_card("falcon")
    with pytest.raises(ConfigError, match="has no stage2; it has stage1"):
        load_card("redpajama-3b-chat").stage("stage2")


def test_commands_are_shown_as_a_user_types_them() -> None:
    command = module(
        "torch.distributed.run", "--nproc_per_node", 2, "--master_port", 1234, "-m", "megatron_train", "--x", "a b"
    )
    assert shown(command) == "torchrun --nproc_per_node 2 -m megatron_train --x 'a b'"
    assert split_at_dashes(["stage", "stage1", "--", "--lr", "1"]) == (["stage", "stage1"], ["--lr", "1"])


def test_miniatures_keep_the_architecture() -> None:
    vocabulary = ROOT / "examples" / "data" / "tokenizer" / "sample.model"
    falcon = shrink(load_card("falcon-7b-sft-top1-696").model, 2, vocabulary)
    assert (falcon.shared_norm, falcon.query_groups, falcon.share_embeddings_and_output_weights) == (True, 1, True)
    pythia = shrink(load_card("oasst-sft-4-pythia-12b-epoch-3.5").model, 2, vocabulary)
    assert (pythia.parallel_residual, pythia.rotary_percent, pythia.add_bias_linear) == (True, 0.25, True)
    llama = shrink(load_card("llama2-70b-oasst-sft-v10").model, 2, vocabulary)
    assert (llama.query_groups, llama.num_attention_heads, llama.normalization) == (2, 4, "RMSNorm")


def test_layouts_of_miniatures_fit_their_heads() -> None:
    llama, falcon = load_card("llama2-70b-oasst-sft-v10").model, load_card("falcon-7b-sft-top1-696").model
    sizes = [tuple(layout_settings(llama, n).values())[:2] for n in (1, 2, 4)]
    assert sizes == [(1, 1), (2, 1), (2, 2)]
    assert tuple(layout_settings(falcon, 4).values())[:2] == (1, 1)


def test_sample_texts_hold_what_people_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    texts = list(sample_texts())
    assert len(texts) > 500 and all(isinstance(text, str) for text in texts)


@pytest.mark.slow
def test_report_adds_its_sections_once(tmp_path: Path) -> None:
    card, hf, run = load_card("oasst-sft-4-pythia-12b-epoch-3.5"), tmp_path / "hf", tmp_path / "stage1"
    with pytest.raises(ConfigError, match="export the model first"):
        write_report(card, hf, [run], [])
    hf.mkdir()
    (hf / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# hf\n\n## Prompt format\n\noasst\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: --runs names"):
        write_report(card, hf, [run], [])
    run.mkdir()
    lines = [{"iteration": 1, "lm_loss": 3.0, "num_tokens": 10}, {"iteration": 2, "lm_loss": 2.5, "num_tokens": 12}]
    lines.append({"iteration": 2, "eval": {"val": {"loss": 2.75, "ppl": 15.643, "token_accuracy": 0.5}}})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "iter_0000002").mkdir()
    (run / "latest_checkpointed_iteration.txt").write_text("2")
    for name in ("model_config.yaml", "train_state.json", "SHA256SUMS"):
        (run / "iter_0000002" / name).write_text("{}")
    results = {"results": {"hellaswag": {"acc_norm,none": 0.6859}}, "n-shot": {"hellaswag": 10}}
    (hf / "evaluation.json").write_text(json.dumps(results))
    settings = {"save": "there", "lr": 0.5, "packing": False, "train_data_path": [f"{tmp_path}/mix-train"]}
    (run / "iter_0000002" / "train_config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "mix-train_stats.txt").write_text("# Stats for the mix\n")
    text = write_report(card, hf, [run], []).read_text()
    assert write_report(card, hf, [run], []).read_text() == text
    assert (text.count(MARK), text.count("[Report](report.html)"), text.count("## Evaluation")) == (1, 1, 1)
    assert (hf / "report.html").is_file() and (hf / "loss.png").read_bytes()[:4] == b"\x89PNG"
    front = yaml.safe_load(text.split("---")[1])
    assert (front["base_model"], front["license"]) == ("andreaskoepf/pythia-12b-pre-2000", "apache-2.0")
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == "HellaSwag (10-Shot)"
    for expected in (
        "# oasst-sft-4-pythia-12b-epoch-3.5\n",
        "## Prompt format",
        "input_file_path: 2023-03-25_oasst_research_ready_synth_labels.jsonl.gz",
        "2 iterations, 22 tokens, loss 3.0000 at first and 2.5000 at last",
        "| 2 | val (eval) | 2.7500 | 15.643 | 50.0% |",
        "## Data of stage1\n\n`mix-train`\n\n```\n# Stats for the mix\n```",
        "## Training arguments of stage1\n\n```yaml\nlr: 0.5\nsave: there\ntrain_data_path:",
        "HellaSwag 68.59",
        "| HellaSwag | 10 | acc_norm | 68.59 |  |",
        "![Loss of each training run](loss.png)",
        "torchrun --nproc_per_node 8 -m megatron_train --config configs/train/oasst-sft-4-pythia-12b-epoch-3.5.yaml",
    ):
        assert expected in text


@pytest.mark.long
def test_smallest_card_in_miniature_from_records_to_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    card = load_card("redpajama-3b-chat")
    miniature = Miniature(card, tmp_path / "card", layers=2)
    miniature.prepare("stage1")
    miniature.train("stage1", processes=1, iterations=3)
    losses = read_losses(tmp_path / "card" / "stage1")
    assert len(losses) == 3 and losses[2] < losses[0]
    hf = miniature.export("stage1")
    answer(hf, card.generation_prompt, max_new_tokens=3)
    config = json.loads((hf / "config.json").read_text())
    assert (config["max_position_embeddings"], config["use_parallel_residual"]) == (5120, False)
    assert "## Data mix" in write_report(card, hf, [tmp_path / "card" / "stage1"], []).read_text()


def test_simulation_runs_each_stage_in_fp32_and_then_the_last_as_the_card_says(tmp_path: Path) -> None:
    card = load_card("llama2-70b-oasst-sft-v10")
    runs = parse_runs(rank_arguments(card, tmp_path, "all", ["stage1", "stage2"]))
    sizes = {(one.parallel.tensor_model_parallel_size, one.parallel.pipeline_model_parallel_size) for one in runs}
    assert sizes == {(8, 4)} and all(one.parallel.sequence_parallel and one.batch.train_iters == 2 for one in runs)
    assert [(one.model.bf16, one.model.hidden_dropout, one.model.lima_dropout) for one in runs] == [
        (False, 0.0, False),
        (False, 0.0, False),
        (True, 0.25, True),
    ]
    alone = parse_runs(rank_arguments(card, tmp_path, "one", ["stage1", "stage2"], alone=True))
    assert [one.parallel.tensor_model_parallel_size * one.parallel.pipeline_model_parallel_size for one in alone] == [
        1,
        1,
    ]
    assert [one.data.data_path for one in alone] == [one.data.data_path for one in runs[:2]]


def parse_runs(words: list[str]) -> list[TrainConfig]:
    text = " ".join(words).split("+ ")[1:]
    return [parse(run.split()).config for run in text]


@pytest.mark.parametrize(("second", "code"), [(2.500001, 0), (2.51, 1)])
def test_simulation_fails_when_a_loss_differs(tmp_path: Path, second: float, code: int) -> None:
    for name, last in (("one", 2.5), ("all", second), ("own", 2.4)):
        run = tmp_path / f"{name}_stage1"
        run.mkdir()
        (run / "metrics.jsonl").write_text(f'{{"lm_loss": 3.0}}\n{{"lm_loss": {last}}}\n')
    assert compare(tmp_path, ["stage1"]) == code
