"""Import checkpoints of Meta and of Megatron-LLM.

    from_meta(Path("llama-2-7b"), Path("CKPT_DIR"), ImportOptions())
    from_megatron_llm(Path("llama2-70b-tp8-pp4"), Path("CKPT_DIR"), ImportOptions())

meta.py and megatron_llm_reader.py present each format as named tensors. Together with a table of rules, they are
imported like a Hugging Face folder.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import model_config_of
from checkpoint_convert.mapping.checks import plan_rows
from checkpoint_convert.mapping.options import ImportOptions
from checkpoint_convert.mapping.vocabulary import RowPlan
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
from checkpoint_convert.megatron_core.release import WeightsToImport, import_weights
from checkpoint_convert.other_formats.megatron_llm_arguments import model_config_of_arguments, with_recorded_tokens
from checkpoint_convert.other_formats.megatron_llm_reader import MegatronLlmWeights
from checkpoint_convert.other_formats.megatron_llm_table import table as megatron_llm_table
from checkpoint_convert.other_formats.meta import MetaWeights
from checkpoint_convert.output.report import Report, warn
from checkpoint_convert.tensors.tensor import ConvertError
from checkpoint_convert.verify.verify import Outcome, compare_weights
from megatron_train.checkpoint.folder import MODEL_CONFIG, TRACKER, find_checkpoint, tracked_folder
from megatron_train.config.model_config import ModelConfig, pad_vocab_size
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer

NO_LOGITS = "logits need a Hugging Face folder; export with to-hf to compare them"


@dataclass(frozen=True)
class MetaOptions:
    """Settings that Meta's files do not state. None = the value of the published model with the same parameters."""

    vocab_file: Path | None = None
    """Tokenizer file. None = tokenizer.model beside the weights or in the parent folder."""
    max_position_embeddings: int | None = None
    """Context length in tokens."""
    rope_scaling_factor: float | None = None


def from_meta(
    folder: Path, checkpoint_dir: Path, options: ImportOptions, unstated: MetaOptions = MetaOptions()
) -> Report:
    """Import a folder with Meta's consolidated.*.pth into CKPT_DIR/release, and return the report to print.

    Raises ConvertError or TokenizerError.
    """
    source, params = MetaWeights(folder), folder / "params.json"
    warn_of_unstated(source, unstated, params)
    config = source.hf_config(unstated.max_position_embeddings, unstated.rope_scaling_factor)
    model = model_config_of(config, FAMILIES, params)
    tokenizer = tokenizer_beside(folder, unstated.vocab_file, options)
    rows = plan_rows(model, tokenizer, options)
    table = FAMILIES[model.family].table(model)
    return import_weights(WeightsToImport(source, table, model, rows, tokenizer, folder), checkpoint_dir, options)


def from_megatron_llm(
    folder: Path, checkpoint_dir: Path, options: ImportOptions, vocab_file: Path | None = None
) -> Report:
    """Import a checkpoint of Megatron-LLM into CKPT_DIR/release, and return the report to print.

    Raises ConvertError, CheckpointError or TokenizerError.
    """
    source = MegatronLlmWeights(find_ranks(folder))
    model = model_config_of_arguments(source)
    tokenizer = tokenizer_beside(folder, vocab_file, options, source.arguments)
    rows = plan_padded_rows(model, tokenizer, options)
    model = dataclasses.replace(model, source_vocab_size=min(rows.source_rows, rows.used_rows))
    table = megatron_llm_table(model)
    return import_weights(WeightsToImport(source, table, model, rows, tokenizer, folder), checkpoint_dir, options)


def verify_meta(folder: Path, checkpoint_dir: Path) -> Outcome:
    """Compare every weight in Meta's files in `folder` with the checkpoint that was imported from them.

    Return what differs. Raises ConvertError or CheckpointError when one of the two cannot be read.
    """
    release = find_checkpoint(checkpoint_dir)
    model = ModelConfig.load(release / MODEL_CONFIG)
    table = FAMILIES[model.family].table(model)
    outcome = compare_weights(MetaWeights(folder), table, CheckpointReader(release), model, folder)
    outcome.no_logits = NO_LOGITS
    return outcome


def verify_megatron_llm(folder: Path, checkpoint_dir: Path, iteration: int | None = None) -> Outcome:
    """Compare every weight in Megatron-LLM's files in `folder` with a checkpoint of this project.

    Return what differs. Raises ConvertError or CheckpointError when one of the two cannot be read.
    """
    ours = find_checkpoint(checkpoint_dir, iteration)
    model = ModelConfig.load(ours / MODEL_CONFIG)
    source = MegatronLlmWeights(find_ranks(folder))
    outcome = compare_weights(source, megatron_llm_table(model), CheckpointReader(ours), model, folder)
    outcome.no_logits = NO_LOGITS
    return outcome


def warn_of_unstated(source: MetaWeights, unstated: MetaOptions, params: Path) -> None:
    """Warn about a context length or rotary factor that is assumed because Meta's files do not state it.

    Raises ConvertError for a given rotary factor that the model does not use.
    """
    if unstated.max_position_embeddings is None:
        tokens = f"{source.usual_context():,}"
        warn(f"{params} does not state the context length; using {tokens} (--max_position_embeddings)")
    if unstated.rope_scaling_factor is not None and not source.is_rope_scaled:
        raise ConvertError(f"{params}: does not set use_scaled_rope; remove --rope_scaling_factor")
    if unstated.rope_scaling_factor is None and source.is_rope_scaled:
        factor = f"{source.usual_factor():g}"
        warn(f"{params} does not state the rotary scaling factor; using {factor} (--rope_scaling_factor)")


def find_ranks(folder: Path) -> Path:
    """Return the folder that holds Megatron-LLM's mp_rank_*: `folder` itself, or the one that its tracker file names.

    Raises ConvertError or CheckpointError when neither holds them.
    """
    for place in (folder, tracked_folder(folder)):
        if any(place.glob("mp_rank_*/")):
            return place
    inside = sorted({path.parent.name for path in folder.glob("*/mp_rank_*/")})
    if inside:
        raise ConvertError(f"{folder}: has no {TRACKER} that names one of {', '.join(inside)}; name that folder itself")
    return find_checkpoint(folder)


def tokenizer_beside(
    folder: Path, vocab_file: Path | None, options: ImportOptions, arguments: Mapping[str, Any] | None = None
) -> Tokenizer | None:
    """Return the tokenizer of --vocab_file, else tokenizer.model in `folder` or its parent, else None with a warning.

    Tokens of the command line are added, or else the tokens in the saved `arguments` of a run. Raises ConvertError when
    `vocab_file` or the file to add tokens to is missing, and TokenizerError for an unusable file.
    """
    places = [vocab_file] if vocab_file else [folder / "tokenizer.model", folder.parent / "tokenizer.model"]
    path = next((place for place in places if place.is_file()), None)
    if path is None and (vocab_file or options.extra_special_tokens):
        raise ConvertError(f"{places[0]}: no such tokenizer file; name one with --vocab_file")
    if path is None:
        warn(f"{folder} has no tokenizer.model, so the checkpoint gets no tokenizer; --vocab_file names one")
        return None
    if is_tiktoken(path):
        raise ConvertError(
            f"{path}: a tiktoken file (Llama 3) instead of a SentencePiece model; name the tokenizer.json of the same "
            "model on Hugging Face with --vocab_file"
        )
    options = with_recorded_tokens(options, arguments or {}, folder)
    wrapper = options.new_tokens and bool(options.extra_special_tokens)
    return load_tokenizer(path, options.extra_special_tokens, new_tokens=wrapper)


def is_tiktoken(path: Path) -> bool:
    """Return whether a file is a tiktoken vocabulary: its first line is a token in base64 and its rank, as `IQ== 0`."""
    with path.open("rb") as file:
        return re.fullmatch(rb"[A-Za-z0-9+/]+={0,2} \d+\s*", file.readline(1000)) is not None


def plan_padded_rows(model: ModelConfig, tokenizer: Tokenizer | None, options: ImportOptions) -> RowPlan:
    """Return the plan of vocabulary rows for a source whose rows are padded already.

    As many rows as the tokenizer has tokens are in use, or all rows without a tokenizer. No row of the source is
    removed.
    """
    rows = model.vocab_size
    used = tokenizer.vocab_size if tokenizer else rows
    padded = max(rows, pad_vocab_size(used, options.make_vocab_size_divisible_by))
    return RowPlan(rows, used, padded, options.new_token_init, model.init_method_std, options.seed)
