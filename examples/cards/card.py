"""configs/cards.yaml as records: a published model, its stages, and the arguments that run them.

card = load_card("falcon-7b-sft-top1-696")
card.stages["stage1"].config              # configs/train/falcon-7b-sft-top1-696.yaml
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_train.config.model_config import ModelConfig
from pretokenizer.config.yaml_config import ConfigError, load_yaml, suggest

ROOT = Path(__file__).resolve().parent.parent.parent
CARDS = ROOT / "configs" / "cards.yaml"


@dataclass(frozen=True)
class Stage:
    """One training run of a card."""

    name: str
    config: str
    section: str
    shards: tuple[str, ...]
    documents: int | None = None
    tokens: int | None = None

    @property
    def prefix(self) -> str:
        """Return the prefix of the section's shards without -train or -val."""
        return self.shards[-1].removesuffix("-train")


@dataclass(frozen=True)
class Card:
    """One published model."""

    name: str
    base_model: str
    license: str
    architecture: str
    tokenizer: str
    vocab_size: int
    extra_tokens: tuple[str, ...]
    chat_format: str
    generation_prompt: str
    stages: dict[str, Stage]
    published_results: str = ""

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.load(ROOT / self.architecture)

    @property
    def uses_sentencepiece(self) -> bool:
        return self.tokenizer == "llama2"

    def stage(self, name: str) -> Stage:
        if name not in self.stages:
            raise ConfigError(f"{self.name} has no {name}; it has {', '.join(self.stages)}")
        return self.stages[name]

    def sections(self, stage: Stage) -> list[str]:
        """Return the arguments of `--configs`. Sections of the Hugging Face cards name their tokenizer."""
        return [stage.section, self.tokenizer] if self.uses_sentencepiece else [stage.section]


def load_card(name: str) -> Card:
    """Load one card. Raises ConfigError with the known names for an unknown one."""
    cards = load_yaml(CARDS)
    if name not in cards:
        raise ConfigError(f"CARD={name}: no such card{suggest(name, cards)}; there are {', '.join(cards)}")
    values: dict[str, Any] = dict(cards[name])
    stages = {
        key: Stage(name=key, **(stage | {"shards": tuple(stage["shards"])})) for key, stage in values["stages"].items()
    }
    return Card(name=name, **(values | {"stages": stages, "extra_tokens": tuple(values["extra_tokens"])}))


def card_names() -> list[str]:
    return list(load_yaml(CARDS))
