"""`make report`: the model card and report.html of an exported folder, with the sections the published cards have.

Starts from the README.md that to-hf wrote (architecture, prompt format, use, data statistics, training arguments) and
adds the data mix, the loss curves, the results of lm-eval, the published results and the commands that reproduce the
model. A second call replaces the additions of the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from checkpoint_convert.output.loss_curves import LOSS_PLOT, draw_losses, read_metrics
from checkpoint_convert.verify.receipt import renew_sums
from examples.cards.card import ROOT, Card, Stage
from examples.evaluation.results import (
    EVALUATION,
    front_matter,
    read_evaluation,
    split_front_matter,
    with_evaluation,
)
from examples.page.__main__ import PAGE, Model, write_page
from examples.sampling.report_file import read_report
from megatron_train.checkpoint.folder import TRAIN_CONFIG
from megatron_train.config.changed import changed_settings
from pretokenizer.config.sections import load_sections, merge_sections
from pretokenizer.config.yaml_config import ConfigError, load_yaml
from pretokenizer.files.publish import write_text_atomic

MARK = "<!-- added by make report -->"


def write_report(card: Card, hf: Path, runs: list[Path], samples: list[Path]) -> Path:
    """Write the model card README.md and report.html of the exported folder `hf`, and return the card's path.

    `runs` are the --save folders of the card's training runs, and `samples` files of sampling reports. Raises
    ConfigError when the folder or a run's metrics are missing, ValueError for a file of `samples` that is no sampling
    report.
    """
    path = hf / "README.md"
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; export the model first: python -m checkpoint_convert to-hf CKPT_DIR {hf}"
        )
    missing = [str(run / "metrics.jsonl") for run in runs if not (run / "metrics.jsonl").is_file()]
    if missing:
        raise ConfigError(f"no {', '.join(missing)}: --runs names the --save folders of the training runs")
    reports = [read_report(sample) for sample in samples]
    values, exported = split_front_matter(path.read_text(encoding="utf-8").split(MARK)[0].rstrip())
    text = body(card, exported)
    parts = [front_matter(values | card_values(card)), text, MARK, data_mix(card)]
    parts += [f"## Loss\n\n![Loss of each training run]({LOSS_PLOT})"] if draw_losses(runs, hf) else []
    for run in runs:
        parts += [run_section(run, text), loss_section(run)]
    parts += [published(card), reproduce(card)]
    whole = "\n\n".join(part for part in parts if part) + "\n"
    if (hf / EVALUATION).is_file():
        whole = with_evaluation(whole, card.name, read_evaluation(hf / EVALUATION))
    write_text_atomic(path, whole)
    renew_sums(hf, [name for name in ("README.md", LOSS_PLOT) if (hf / name).is_file()])
    write_page(hf / PAGE, Model(card.name, runs, hf, reports))
    print(f"wrote {path} and {hf / PAGE}")
    return path


def card_values(card: Card) -> dict[str, Any]:
    """Return the front matter values that the published model sets. Other values of the exported card stay."""
    return {
        "license": card.license,
        "base_model": card.base_model,
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["sft"],
    }


def body(card: Card, exported: str) -> str:
    """Return the text of the exported model card (without front matter) with the published model's name as title."""
    title, _, rest = exported.strip().partition("\n")
    return f"# {card.name}\n{rest}" if title.startswith("# ") else f"# {card.name}\n\n{exported.strip()}"


def data_mix(card: Card) -> str:
    """Return the card's section on its data: the merged pretokenizer sections of each stage as YAML."""
    sections = load_sections()
    parts = ["## Data mix"]
    for stage in card.stages.values():
        merged = merge_sections(sections, card.sections(stage))
        mix = {stage.section: {key: merged[key] for key in ("datasets", "min_assistant_tokens") if merged.get(key)}}
        parts.append(f"{stage.name}:\n\n```yaml\n{yaml.safe_dump(mix, sort_keys=False, allow_unicode=True)}```")
    return "\n\n".join(parts)


def run_section(run: Path, already: str) -> str:
    """Return the card's sections on data statistics and training settings of a run, as Markdown.

    `already` is the text of the exported card, and what it contains is left out. Return "" for a run without a
    checkpoint.
    """
    found = sorted(run.glob(f"iter_*/{TRAIN_CONFIG}"))
    if not found:
        return ""
    settings = changed_settings(load_yaml(found[-1]))
    parts = []
    for prefix in (*settings.get("data_path", ()), *settings.get("train_data_path", ())):
        stats = Path(f"{prefix}_stats.txt")
        text = stats.read_text(encoding="utf-8").strip() if stats.is_file() else ""
        if text and text not in already:
            parts.append(f"## Data of {run.name}\n\n`{Path(prefix).name}`\n\n```\n{text}\n```")
    if f"save: {settings.get('save')}\n" not in already:
        listed = yaml.safe_dump(settings, sort_keys=False)
        parts.append(f"## Training arguments of {run.name}\n\n```yaml\n{listed}```")
    return "\n\n".join(parts)


def loss_section(run: Path) -> str:
    """Return the card's section on a run's losses: the first and last training loss, and a table of evaluations."""
    records = read_metrics(run)
    steps = [record for record in records if record.get("lm_loss") is not None]
    losses = [record["lm_loss"] for record in steps]
    if not losses:
        return f"## Loss of {run.name}\n\nno iteration was run"
    tokens = sum(record["num_tokens"] for record in steps)
    text = [
        f"## Loss of {run.name}",
        f"{len(losses):,} iterations, {tokens:,} tokens, loss {losses[0]:.4f} at first and {losses[-1]:.4f} at last "
        f"(mean over target tokens).",
    ]
    return "\n\n".join([*text, *evaluations(records)])


def evaluations(records: list[dict[str, Any]]) -> list[str]:
    rows = []
    for record in records:
        for kind in ("eval", "test"):
            for name, result in record.get(kind, {}).items():
                if result["loss"] is None:  # not finite
                    rows.append(f"| {record['iteration']:,} | {name} ({kind}) | not finite | | |")
                    continue
                rows.append(
                    f"| {record['iteration']:,} | {name} ({kind}) | {result['loss']:.4f} | {result['ppl']:.3f} | "
                    f"{result['token_accuracy']:.1%} |"
                )
    if not rows:
        return []
    return ["\n".join(["| iteration | set | loss | perplexity | token accuracy |", "|---|---|---|---|---|", *rows])]


def published(card: Card) -> str:
    return f"## Published results of {card.name}\n\n{card.published_results}" if card.published_results else ""


def reproduce(card: Card) -> str:
    """Return the card's section with the commands that make this model from input records and the base model."""
    tokens = ",".join(card.extra_tokens)
    lines = []
    for stage in card.stages.values():
        lines += _stage_commands(card, stage)
    lines.insert(
        1, f"python -m checkpoint_convert from-hf {card.base_model} CKPT_DIR --vocab_extra_ids_list '{tokens}'"
    )
    lines += ["python -m checkpoint_convert to-hf CKPT_DIR HF_DIR", f"make report CARD={card.name} HF_DIR=HF_DIR"]
    text = "\n".join(lines)
    return f"## How to reproduce\n\n```bash\n{text}\n```\n\nWhat differs from the published model: `docs/cards.md`."


def _stage_commands(card: Card, stage: Stage) -> list[str]:
    config = yaml.safe_load((ROOT / stage.config).read_text(encoding="utf-8"))
    processes = config.get("tensor_model_parallel_size", 1) * config.get("pipeline_model_parallel_size", 1)
    return [
        f"python -m pretokenizer build --configs {' '.join(card.sections(stage))} --data_dir data",
        f"torchrun --nproc_per_node {max(processes, 8)} -m megatron_train --config {stage.config}",
    ]
