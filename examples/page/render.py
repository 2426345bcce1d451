"""Facts of a model -> one self-contained HTML page, without scripts and without anything to download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from examples.page.facts import Facts, Stage
from examples.page.plots import curve, lengths

TEMPLATE = Path(__file__).parent / "page.html.j2"


def render(facts: Facts) -> str:
    """Return the page. Texts of data and models are escaped; only the plots are markup."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    plots = {stage.name: stage_plots(stage) for stage in facts.stages}
    return template.render(facts=facts, plots=plots, prompts=side_by_side(facts.samples))


def stage_plots(stage: Stage) -> dict[str, Markup]:
    """Return the plots of one stage by name."""
    drawn = {
        "loss": curve(stage, "lm_loss", "loss per target token"),
        "lr": curve(stage, "lr", "learning rate"),
        "grad_norm": curve(stage, "grad_norm", "gradient norm", log=True),
        "tokens_per_second": curve(stage, "tokens_per_second", "tokens per second"),
    }
    if stage.shards:
        drawn["lengths"] = lengths(stage.shards, stage.name)
    return {name: Markup(text) for name, text in drawn.items()}


def side_by_side(reports: list[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return each prompt with its (model, configuration, text) answers. Reports are matched by the prompt's text."""
    prompts: dict[str, list[tuple[str, str, str]]] = {}
    for report in reports:
        for entry in report["prompts"]:
            answers = prompts.setdefault(entry["prompt"], [])
            for result in entry["results"]:
                name = result.get("sampling_config", "")
                answers += [(report["model_name"], name, text) for text in result["outputs"]]
    return list(prompts.items())
