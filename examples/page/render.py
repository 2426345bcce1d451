"""Facts of a model -> one self-contained HTML page, without scripts and without anything to download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from examples.evaluation.results import notes, title
from examples.page.facts import Facts, Shards, Stage, section_name
from examples.page.plots import curve, lengths

TEMPLATE = Path(__file__).parent / "page.html.j2"


def render(facts: Facts) -> str:
    """Return the page about a model as HTML. Texts of data and models are escaped; only the plots are markup."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    plots = {stage.name: stage_plots(stage) for stage in facts.stages}
    sections = {section_name(shards): section_yaml(shards) for stage in facts.stages for shards in stage.shards}
    prompts = side_by_side(facts.samples)
    return template.render(facts=facts, plots=plots, prompts=prompts, sections=sections, notes=notes, title=title)


def section_yaml(shards: Shards) -> str:
    """Return the pretokenizer section of a folder of shards as the text of a YAML file, or "" when it is not known."""
    if not shards.section:
        return ""
    return yaml.safe_dump({section_name(shards): shards.section}, sort_keys=False, allow_unicode=True)


def stage_plots(stage: Stage) -> dict[str, Markup]:
    """Return the plots of one stage as SVG by name: four metrics, and lengths0, lengths1 ... of its shards."""
    drawn = {
        "loss": curve(stage, "lm_loss", "loss per target token"),
        "lr": curve(stage, "lr", "learning rate"),
        "grad_norm": curve(stage, "grad_norm", "gradient norm", log=True),
        "tokens_per_second": curve(stage, "tokens_per_second", "tokens per second"),
    }
    for number, shards in enumerate(stage.shards):
        drawn[f"lengths{number}"] = lengths(shards, f"{stage.name}-{number}")
    return {name: Markup(text) for name, text in drawn.items()}


@dataclass(frozen=True)
class Answers:
    """The answers of all models to one prompt in one sampling configuration."""

    configuration: str
    by_model: list[tuple[str, list[str]]]
    """(model name, its answers) for each model."""


def side_by_side(reports: list[dict[str, Any]]) -> list[tuple[str, list[Answers]]]:
    """Merge the sampling reports of several models: return (prompt, answers by configuration) for each prompt.

    Prompts of different reports are the same if their texts are equal.
    """
    prompts: dict[str, dict[str, list[tuple[str, list[str]]]]] = {}
    for report in reports:
        for entry in report["prompts"]:
            found = prompts.setdefault(entry["prompt"], {})
            for result in entry["results"]:
                by_model = found.setdefault(result.get("sampling_config", ""), [])
                by_model.append((report["model_name"], result["outputs"]))
    return [(prompt, [Answers(*item) for item in found.items()]) for prompt, found in prompts.items()]
