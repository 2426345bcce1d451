"""The README.md of an exported folder states its model, prompt, data, settings and losses."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from checkpoint_convert.huggingface.model_card import CardFacts, model_card
from megatron_train.config.model_config import ModelConfig
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.tokenizer.load import load_tokenizer


def test_card_states_model_prompt_data_and_arguments(
    spm_model: Path, tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run" / "iter_0000346"
    checkpoint.mkdir(parents=True)
    (tmp_path / "top1-train_stats.txt").write_text("\n# Stats for out/top1*\n\n  Accepted: 5/5 (100.0%)\n")
    settings = {
        "load": "ckpts/stage1",
        "train_data_path": ["0.7", str(tmp_path / "top1-train")],
        "lr": 3e-5,
        "packing": False,
        "wandb": None,
    }
    (checkpoint / "train_config.yaml").write_text(yaml.safe_dump(settings))
    tokenizer = load_tokenizer(spm_model, ("<|im_start|>", "<|im_end|>"))

    card = model_card(CardFacts("org/my-model"), tiny_model_config, checkpoint, tokenizer, CHAT_FORMATS["chatml"])

    assert card.startswith(
        "---\ntags:\n- sft\npipeline_tag: text-generation\nlibrary_name: transformers\n---\n\n# my-model\n"
    )
    assert 'AutoModelForCausalLM.from_pretrained("org/my-model")' in card
    assert "| converted from | `iter_0000346` |\n| base model | `stage1` |\n" in card
    assert "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>\n```\n" in card
    assert "A reply ends at `<|im_end|>`. Special tokens: `<|im_start|>` = 405, `<|im_end|>` = 406.\n" in card
    assert "## Data\n\n`top1-train`\n\n```\n# Stats for out/top1*\n\n  Accepted: 5/5 (100.0%)\n```\n" in card
    assert "lr: 3.0e-05\n" in card
    assert "wandb" not in card and "packing" not in card


def test_card_shows_losses_and_the_last_evaluation(tiny_model_config: ModelConfig, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "iter_0000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "train_config.yaml").write_text("lr: 3.0e-05")
    lines = [{"iteration": i, "lm_loss": 4.0 / i, "num_tokens": 1000} for i in (1, 2)]
    lines += [{"iteration": i, "eval": {"val": {"loss": 3.0 / i, "token_accuracy": 0.25 * i}}} for i in (1, 2)]
    lines.append({"iteration": 3, "lm_loss": None, "num_tokens": 1000})
    lines[-2]["eval"]["broken"] = {"loss": None, "token_accuracy": None}
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    card = model_card(CardFacts("mine"), tiny_model_config, checkpoint, None, None)

    assert "| iterations | 2 |\n| tokens | 2,000 |\n| loss | 4.000 at first, 2.000 at last |\n" in card
    assert "| evaluation on val | loss 1.500, token accuracy 50.0% |\n" in card
    assert "broken" not in card


def test_card_names_the_base_model(tiny_model_config: ModelConfig, tmp_path: Path) -> None:
    release, trained = tmp_path / "base" / "release", tmp_path / "run" / "iter_0000001"
    for folder in (release, trained):
        folder.mkdir(parents=True)
    (release / "converted_from.json").write_text('{"name": "org/model-7b"}')
    (release.parent / "latest_checkpointed_iteration.txt").write_text("release")
    (trained / "train_config.yaml").write_text(yaml.safe_dump({"load": str(release.parent)}))

    card = model_card(CardFacts("mine"), tiny_model_config, trained, None, None)

    assert card.startswith("---\nbase_model: org/model-7b\ntags:\n- sft\npipeline_tag: text-generation\n")
    assert "| base model | `base`, from `org/model-7b` |\n" in card


def test_card_of_converted_weights_leaves_out_what_is_not_known(tiny_model_config: ModelConfig, tmp_path: Path) -> None:
    card = model_card(CardFacts("base"), tiny_model_config, tmp_path / "release", None, None)

    assert [line for line in card.splitlines() if line.startswith("#")] == ["# base"]


def test_the_front_matter_has_what_the_user_states(tiny_model_config: ModelConfig, tmp_path: Path) -> None:
    facts = CardFacts("mine", "apache-2.0", ("en", "de"), ("OpenAssistant/oasst1",))

    card = model_card(facts, tiny_model_config, tmp_path / "release", None, None)

    assert yaml.safe_load(card.split("---\n")[1]) == {
        "license": "apache-2.0",
        "language": ["en", "de"],
        "datasets": ["OpenAssistant/oasst1"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
    }


def test_a_card_has_every_stage_with_rounded_settings(tiny_model_config: ModelConfig, tmp_path: Path) -> None:
    for stage, load, lr in (("stage1", None, 3.0000000000000001e-05), ("stage2", "stage1", 0.1 + 0.2)):
        checkpoint = tmp_path / stage / "iter_0000002"
        checkpoint.mkdir(parents=True)
        (tmp_path / stage / "latest_checkpointed_iteration.txt").write_text("2")
        (tmp_path / f"{stage}-train_stats.txt").write_text(f"# Stats of {stage}\n")
        settings = {"lr": lr, "train_data_path": [str(tmp_path / f"{stage}-train")]}
        settings |= {"load": str(tmp_path / load)} if load else {}
        (checkpoint / "train_config.yaml").write_text(yaml.safe_dump(settings))
        results = {"val": {"loss": 1.5, "token_accuracy": 0.5}}
        lines = [{"iteration": 2, "lm_loss": 2.0, "num_tokens": 10}, {"iteration": 2, "test": results}]
        (tmp_path / stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    card = model_card(CardFacts("mine", has_loss_plot=True), tiny_model_config, checkpoint, None, None)

    parts = [
        "# Stats of stage1",
        "# Stats of stage2",
        "![Loss of each training run](loss.png)",
        "### stage1",
        "### stage2",
    ]
    assert [card.count(part) for part in parts] == [1] * 5
    assert [part for _, part in sorted((card.index(part), part) for part in parts)] == parts
    assert "lr: 3.0e-05\n" in card and "lr: 0.3\n" in card
    assert card.count("| test on val | loss 1.500, token accuracy 50.0% |") == 2
