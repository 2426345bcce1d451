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
    """One training run of a published model."""

    name: str
    config: str
    """Path of the training configuration, relative to the repository root."""
    section: str
    """Section of configs/pretokenize that builds the shards."""
    shards: tuple[str, ...]
    """Names in which the path prefix of the training shards may end."""
    documents: int | None = None
    """Published number of documents in the training shards, or None."""
    tokens: int | None = None
    """Published number of tokens in the training shards, or None."""

    @property
    def prefix(self) -> str:
        """Return the file name prefix of the section's shards, without -train or -val."""
        return self.shards[-1].removesuffix("-train")


@dataclass(frozen=True)
class Card:
    """One published model: an entry of configs/cards.yaml."""

    name: str
    base_model: str
    """Name on the Hugging Face hub of the model that stage 1 starts from."""
    license: str
    architecture: str
    """Path of the architecture's YAML file, relative to the repository root."""
    tokenizer: str
    """Section of configs/pretokenize that names the tokenizer."""
    vocab_size: int
    extra_tokens: tuple[str, ...]
    """Tokens that the fine-tuning adds to the vocabulary."""
    chat_format: str
    generation_prompt: str
    """Text at which the rendered prompt ends and the reply starts."""
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
        """Return the sections that `pretokenizer build --configs` takes to build the shards of `stage`.

        Only cards with a SentencePiece tokenizer need its section too; the others name it in the stage's section.
        """
        return [stage.section, self.tokenizer] if self.uses_sentencepiece else [stage.section]


def load_card(name: str) -> Card:
    """Load one published model from configs/cards.yaml. Raises ConfigError listing the known names for another one."""
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
