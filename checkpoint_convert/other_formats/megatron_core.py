"""Import a torch_dist checkpoint that megatron-core, Megatron-LM or Megatron-Bridge saved.

    from_megatron_core(Path("megatron_run"), Path("CKPT_DIR"), ImportOptions(), CoreOptions(model="llama2_7b"))

The weights have our names already, so the table of rules maps every name to itself. No code of the checkpoint runs:
every pickle goes through the inert unpickler.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.mapping.options import ImportOptions
from checkpoint_convert.mapping.rules import Direct, Table
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
from checkpoint_convert.megatron_core.release import WeightsToImport, import_weights
from checkpoint_convert.other_formats.convert import NO_LOGITS, plan_padded_rows, tokenizer_beside
from checkpoint_convert.other_formats.megatron_core_arguments import (
    EMBEDDING,
    model_config_of_settings,
    saved_settings,
)
from checkpoint_convert.output.report import Report, warn
from checkpoint_convert.tensors.tensor import ConvertError
from checkpoint_convert.verify.verify import Outcome, compare_weights
from megatron_train.checkpoint.folder import MODEL_CONFIG, TRACKER, find_checkpoint, tracked_folder
from megatron_train.checkpoint.recognize import described
from megatron_train.config.model_config import ModelConfig
from pretokenizer.config.paths import find_config


@dataclass(frozen=True)
class CoreOptions:
    """Settings that a checkpoint of another tool may not state: its architecture and its tokenizer file."""

    model: str | None = None
    """Name of a shipped architecture, or a YAML file. None = the settings saved in the checkpoint."""
    vocab_file: Path | None = None
    """Tokenizer file. None = tokenizer.model in the checkpoint's folder or its parent."""


def from_megatron_core(
    folder: Path, checkpoint_dir: Path, options: ImportOptions, unstated: CoreOptions = CoreOptions()
) -> Report:
    """Import a torch_dist checkpoint of another tool into CKPT_DIR/release, and return the report to print.

    Raises ConvertError, ConfigError or TokenizerError.
    """
    source = open_foreign(folder)
    model = architecture(source, unstated.model)
    tokenizer = tokenizer_beside(source.folder, unstated.vocab_file, options)
    rows = plan_padded_rows(model, tokenizer, options)
    if tokenizer is None:
        rows = dataclasses.replace(rows, used_rows=model.source_vocab_size or rows.used_rows)
    if source.other_keys:
        warn(f"{source.folder}: {len(source.other_keys):,} tensors of training state are left out")
    weights = WeightsToImport(source, identity_table(model), model, rows, tokenizer, source.folder)
    return import_weights(weights, checkpoint_dir, options)


def verify_megatron_core(folder: Path, checkpoint_dir: Path) -> Outcome:
    """Compare every weight of another tool's checkpoint with the imported one, and return what differs.

    Raises ConvertError or CheckpointError when one of the two checkpoints cannot be read.
    """
    release = find_checkpoint(checkpoint_dir)
    model = ModelConfig.load(release / MODEL_CONFIG)
    outcome = compare_weights(open_foreign(folder), identity_table(model), CheckpointReader(release), model, folder)
    outcome.no_logits = NO_LOGITS
    return outcome


def open_foreign(folder: Path) -> CheckpointReader:
    """Open another tool's checkpoint: the one in `folder`, or the one that the folder's tracker file names.

    Raises ConvertError.
    """
    return CheckpointReader(find_foreign(folder), is_foreign=True)


def check_foreign(folder: Path, iteration: int | None) -> None:
    """Raise ConvertError when `to-hf --model` does not apply to `folder`.

    It applies to a checkpoint of another tool that does not hold this project's model config, and without --iteration.
    """
    found = find_foreign(folder)
    if (found / MODEL_CONFIG).is_file():
        raise ConvertError(f"{found}: states its architecture in {MODEL_CONFIG}; leave --model out")
    if iteration is not None:
        raise ConvertError(f"{folder}: --iteration does not combine with --model; name the iteration's folder instead")


def find_foreign(folder: Path) -> Path:
    """Return the folder of another tool's checkpoint, which is the one with `.metadata`.

    It is `folder`, the checkpoint that the tracker file in `folder` names, or the subfolder weights/ of one of them.
    Raises ConvertError when there is none.
    """
    named = tracked_folder(folder)
    places = [folder, named, *(place / "weights" for place in (folder, named))]
    for place in places:
        if (place / ".metadata").is_file():
            return place
    inside = sorted(path.parent.name for path in folder.glob("*/.metadata"))
    if inside:
        raise ConvertError(f"{folder}: has no {TRACKER} that names one of {', '.join(inside)}; name that folder itself")
    raise ConvertError(f"{folder}: has no torch_dist checkpoint with .metadata; {folder} {described(folder)}")


def architecture(source: CheckpointReader, name: str | None) -> ModelConfig:
    """Return the architecture of another tool's checkpoint.

    `name` is a shipped architecture or a YAML file; None takes the settings that the tool saved. The number of
    vocabulary rows is the checkpoint's. Raises ConvertError or ConfigError.
    """
    if EMBEDDING not in source.infos:
        raise ConvertError(f"{source.folder}: has no {EMBEDDING}, so it is not a GPT model of megatron-core")
    if name is None:
        settings = saved_settings(source.folder)
        if not settings:
            raise ConvertError(f"{source.folder}: states no architecture; name it with --model NAME_OR_YAML")
        return model_config_of_settings(settings, source.infos, source.folder)
    model = ModelConfig.load(find_config("model", name))
    rows = source.infos[EMBEDDING].shape[0]
    stated = min(rows, model.vocab_size)
    return dataclasses.replace(model, vocab_size=rows, source_vocab_size=stated, padded_vocab_size=None)


def identity_table(model: ModelConfig) -> Table:
    """Return the table of rules that converts every tensor of the model to itself, under the same name."""
    rules = FAMILIES[model.family].table(model).rules
    same = tuple(Direct(rule.megatron, rule.megatron, rule.is_vocabulary) for rule in rules)
    return Table(f"{model.family} model of megatron-core", same)
