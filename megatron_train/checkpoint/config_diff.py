"""Settings that differ between a run and its starting checkpoint, as a table.

setting            checkpoint  given   in force
layernorm_epsilon  1e-05       1e-06   checkpoint
lr                 1e-05       2e-05   given
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from megatron_train.checkpoint.folder import MODEL_CONFIG, TRAIN_CONFIG
from megatron_train.config.flags import OWNER, config_to_yaml
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.settings import TrainConfig
from pretokenizer.config.paths import find_config
from pretokenizer.config.yaml_config import load_yaml

NOT_COMPARED = {"checkpoint", "logging", "evaluation"}
"""Groups of settings that are not compared, because they do not change what the run trains."""


ORDER_OF_SAMPLES = {
    *("seed", "split", "seq_length", "packing", "packing_window", "overlong"),
}
"""Settings that decide which documents a sample of the training order holds."""
KEPT_BY_CHECKPOINT = {"initial_loss_scale"}
"""Settings whose effect a resumed run takes from the checkpoint: the loss scale continues at its last value."""


class Difference(NamedTuple):
    """A setting whose value in the checkpoint differs from the value given to this run.

    `in_force` names the value that the run uses: `checkpoint` or `given`.
    """

    setting: str
    checkpoint: Any
    given: Any
    in_force: str


def differences(config: TrainConfig, folder: Path, ranks: tuple[int | None, int] | None = None) -> list[Difference]:
    """Return the differences between this run and the checkpoint `folder`: architecture, then settings, then ranks.

    The architecture is compared only if --model names one. `ranks` is (ranks of the run that wrote the checkpoint, or
    None if unknown; ranks of this run).
    """
    found = [*model_differences(config, folder), *setting_differences(config, folder)]
    if ranks and ranks[0] and ranks[0] != ranks[1]:
        found.append(Difference("ranks", *ranks, "given"))
    return found


def model_differences(config: TrainConfig, folder: Path) -> list[Difference]:
    """Return the values of the architecture that differ between --model and the checkpoint, whose values are in force.

    Vocabulary sizes are not compared. The list is empty without --model.
    """
    if config.model.model is None:
        return []
    positions = config.model.max_position_embeddings
    stored = vars(ModelConfig.load(folder / MODEL_CONFIG).with_positions(positions))
    named = vars(ModelConfig.load(find_config("model", config.model.model)).with_positions(positions))
    return [
        Difference(name, stored[name], named[name], "checkpoint")
        for name in stored
        if stored[name] != named[name] and name not in {"vocab_size", "padded_vocab_size", "source_vocab_size"}
    ]


def setting_differences(config: TrainConfig, folder: Path) -> list[Difference]:
    """Return the settings that differ between this run and the training run that wrote the checkpoint `folder`.

    The groups in NOT_COMPARED are left out. This run's values are in force, except for KEPT_BY_CHECKPOINT. The list is
    empty for a converted checkpoint, which holds no settings.
    """
    if not (folder / TRAIN_CONFIG).is_file():
        return []
    before, now = load_yaml(folder / TRAIN_CONFIG), yaml.safe_load(config_to_yaml(config))
    names = [name for name, group in OWNER.items() if group not in NOT_COMPARED and name != "model"]
    return [
        Difference(name, before[name], now[name], "checkpoint" if name in KEPT_BY_CHECKPOINT else "given")
        for name in names
        if name in before and before[name] != now[name] and (before[name], name) != (None, "global_batch_size")
    ]


def table(rows: list[Difference]) -> str:
    """Return the differences as a text table: a header and one line per setting, aligned and indented by two spaces."""
    cells = [("setting", "checkpoint", "given", "in force"), *(tuple(map(_shown, row)) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return "\n".join(
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
