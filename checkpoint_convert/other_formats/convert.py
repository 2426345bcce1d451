"""Checkpoints of Meta and of Megatron-LLM -> this project's.

    from_meta(Path("llama-2-7b"), Path("CKPT_DIR"), ImportOptions())
    from_megatron_llm(Path("llama2-70b-tp8-pp4"), Path("CKPT_DIR"), ImportOptions())

Both appear as named tensors (meta.py, megatron_llm.py) with a table, and then go the way of from-hf.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoint_convert.convert import import_weights
from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import model_config_of
from checkpoint_convert.mapping.checks import ImportOptions, plan_rows
from checkpoint_convert.mapping.vocabulary import RowPlan
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
from checkpoint_convert.other_formats import megatron_llm
from checkpoint_convert.other_formats.megatron_llm import EMBEDDING, MegatronLlmWeights
from checkpoint_convert.other_formats.meta import MetaWeights
from checkpoint_convert.report import Report, warn
from checkpoint_convert.tensors.tensor import ConvertError
from checkpoint_convert.tensors.torch_archive import Opaque
from checkpoint_convert.verify.verify import Outcome, compare_weights
from megatron_train.checkpoint.folder import MODEL_CONFIG, find_checkpoint
from megatron_train.config.model_config import ModelConfig, pad_vocab_size
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer

NO_LOGITS = "only Hugging Face folders can be run beside a checkpoint; export with to-hf to compare logits"


def from_meta(
    folder: Path,
    checkpoint_dir: Path,
    options: ImportOptions,
    vocab_file: Path | None = None,
    max_position_embeddings: int | None = None,
    rope_scaling_factor: float | None = None,
) -> Report:
    """A folder with consolidated.*.pth -> CKPT_DIR/release. Raises ConvertError or TokenizerError."""
    source, params = MetaWeights(folder), folder / "params.json"
    if max_position_embeddings is None:
        tokens = f"{source.usual_context():,}"
        warn(f"{params} does not say the context length: taken as {tokens} (--max_position_embeddings)")
    if rope_scaling_factor is not None and not source.is_rope_scaled:
        raise ConvertError(f"{params}: has no use_scaled_rope, so leave --rope_scaling_factor out")
    if rope_scaling_factor is None and source.is_rope_scaled:
        factor = f"{source.usual_factor():g}"
        warn(f"{params} does not say the rotary scaling factor: taken as {factor} (--rope_scaling_factor)")
    model = model_config_of(source.hf_config(max_position_embeddings, rope_scaling_factor), FAMILIES, params)
    tokenizer = tokenizer_beside(folder, vocab_file, options)
    plan = plan_rows(model, tokenizer, options)
    table = FAMILIES[model.family].table(model)
    return import_weights(source, table, model, plan, tokenizer, folder, checkpoint_dir, options)


def from_megatron_llm(
    folder: Path, checkpoint_dir: Path, options: ImportOptions, vocab_file: Path | None = None
) -> Report:
    """A checkpoint of Megatron-LLM -> CKPT_DIR/release. Raises ConvertError, CheckpointError or TokenizerError."""
    source = MegatronLlmWeights(find_ranks(folder))
    model = model_config_of_arguments(source.arguments, source.infos[EMBEDDING].shape[0], source)
    tokenizer = tokenizer_beside(folder, vocab_file, options, source.arguments)
    plan = plan_padded_rows(model, tokenizer, options)
    model = dataclasses.replace(model, source_vocab_size=min(plan.source_rows, plan.used_rows))
    table = megatron_llm.table(model)
    return import_weights(source, table, model, plan, tokenizer, folder, checkpoint_dir, options)


def verify_meta(folder: Path, checkpoint_dir: Path) -> Outcome:
    """Every weight of Meta's files against the checkpoint."""
    source, release = MetaWeights(folder), find_checkpoint(checkpoint_dir)
    model = ModelConfig.load(release / MODEL_CONFIG)
    table = FAMILIES[model.family].table(model)
    outcome = compare_weights(source, table, CheckpointReader(release), model, folder)
    outcome.no_logits = NO_LOGITS
    return outcome


def verify_megatron_llm(folder: Path, checkpoint_dir: Path, iteration: int | None = None) -> Outcome:
    """Every weight of a Megatron-LLM checkpoint against ours."""
    source, ours = MegatronLlmWeights(find_ranks(folder)), find_checkpoint(checkpoint_dir, iteration)
    model = ModelConfig.load(ours / MODEL_CONFIG)
    outcome = compare_weights(source, megatron_llm.table(model), CheckpointReader(ours), model, folder)
    outcome.no_logits = NO_LOGITS
    return outcome


def find_ranks(folder: Path) -> Path:
    """The folder of mp_rank_* that the tracker names; a folder that holds them itself is accepted too."""
    if folder.is_dir() and any(folder.glob("mp_rank_*")):
        return folder
    return find_checkpoint(folder)


def tokenizer_beside(
    folder: Path, vocab_file: Path | None, options: ImportOptions, arguments: Mapping[str, Any] | None = None
) -> Tokenizer | None:
    """The tokenizer of --vocab_file, else tokenizer.model in the folder or the one above it; None and a warning.

    With the tokens of the command line, else those that the `arguments` of a training run name.
    """
    places = [vocab_file] if vocab_file else [folder / "tokenizer.model", folder.parent / "tokenizer.model"]
    path = next((place for place in places if place.is_file()), None)
    if path is None and (vocab_file or options.extra_special_tokens):
        raise ConvertError(f"{places[0]}: no such tokenizer file; name one with --vocab_file")
    if path is None:
        warn(f"{folder} has no tokenizer.model (--vocab_file names one), so the checkpoint gets no tokenizer")
        return None
    if is_tiktoken(path):
        raise ConvertError(
            f"{path}: tiktoken's ranks (Llama 3), not a SentencePiece model; give the tokenizer.json of the same model "
            "on Hugging Face with --vocab_file"
        )
    options = with_recorded_tokens(options, arguments or {}, folder)
    wrapper = options.new_tokens and bool(options.extra_special_tokens)
    return load_tokenizer(path, options.extra_special_tokens, new_tokens=wrapper)


def is_tiktoken(path: Path) -> bool:
    """Whether the file begins with a line `IQ== 0`: a token in base64 and its rank."""
    with path.open("rb") as file:
        return re.fullmatch(rb"[A-Za-z0-9+/]+={0,2} \d+\s*", file.readline(1000)) is not None


def with_recorded_tokens(options: ImportOptions, arguments: Mapping[str, Any], folder: Path) -> ImportOptions:
    """The options with the added tokens of a training run where the command line names none; a warning if it differs.

    A launch script may have left quotes around the list.
    """
    text = str(arguments.get("vocab_extra_ids_list") or "").strip().strip("\"'")
    recorded, new_tokens = tuple(token for token in text.split(",") if token), arguments.get("new_tokens") is not False
    if not recorded:
        return options
    if not options.extra_special_tokens:
        options = dataclasses.replace(
            options, extra_special_tokens=recorded, new_tokens=options.new_tokens and new_tokens
        )
    if (options.extra_special_tokens, options.new_tokens) != (recorded, new_tokens):
        flags = f"--vocab_extra_ids_list {text}" + ("" if new_tokens else " --no_new_tokens")
        warn(f"{folder}: was trained with {flags}; the tokens given here differ, and so may their ids")
    return options


def plan_padded_rows(model: ModelConfig, tokenizer: Tokenizer | None, options: ImportOptions) -> RowPlan:
    """Megatron-LLM's rows are padded already: the tokenizer tells how many are in use, and none is taken away."""
    rows = model.vocab_size
    used = tokenizer.vocab_size if tokenizer else rows
    padded = max(rows, pad_vocab_size(used, options.make_vocab_size_divisible_by))
    return RowPlan(rows, used, padded, options.new_token_init, model.init_method_std, options.seed)


def model_config_of_arguments(arguments: Mapping[str, Any], rows: int, source: MegatronLlmWeights) -> ModelConfig:
    """The architecture from the arguments that Megatron-LLM saved. Raises ConvertError naming what does not fit."""
    get, where = arguments.get, source.folder
    is_llama = bool(get("use_rms_norm")) and get("glu_activation") == "swiglu" and not get("parallel_attn")
    is_falcon = bool(get("parallel_attn")) and get("glu_activation") is None and not get("use_rms_norm")
    rotary = get("position_embedding_type", "rotary")
    if isinstance(rotary, Opaque):  # the enum's value: rotary = 1
        rotary = "rotary" if rotary.arguments == (1,) else "absolute"
    if not (is_llama or is_falcon) or rotary != "rotary" or get("use_post_ln"):
        raise ConvertError(
            f"{where}: neither a Llama nor a Falcon model by its arguments (norm, GLU, rotary, attention)"
        )
    for name, default in (("layernorm_epsilon", 1e-5), ("rope_theta", 10000.0)):
        if get(name) is None:
            warn(f"{where}: its arguments lack {name}, taken as {default:g}")
    factor = float(get("rope_scaling_factor") or 1.0)
    num_layers = get("num_layers") or get("encoder_num_layers")
    try:
        model = ModelConfig(
            family="llama" if is_llama else "falcon",
            num_layers=int(num_layers or 0),
            hidden_size=int(get("hidden_size") or 0),
            ffn_hidden_size=source.infos["encoder.layers.0.mlp.dense_4h_to_h.weight"].shape[1],
            num_attention_heads=int(get("num_attention_heads") or 0),
            kv_channels=int(get("kv_channels") or 0) or None,
            num_query_groups=int(get("num_attention_heads_kv") or get("num_attention_heads") or 0),
            vocab_size=rows,
            source_vocab_size=rows,
            max_position_embeddings=int(get("max_position_embeddings") or get("seq_length") or 0),
            normalization="RMSNorm" if is_llama else "LayerNorm",
            layernorm_epsilon=float(get("layernorm_epsilon") or 1e-5),
            gated_linear_unit=is_llama,
            activation="silu" if is_llama else "gelu",
            add_bias_linear=bool(get("use_bias")),
            parallel_residual=is_falcon,
            shared_norm=is_falcon and not get("parallel_layernorm"),
            rotary_base=float(get("rope_theta") or 10000.0),
            rope_scaling_type="linear" if factor > 1 else "none",
            rope_scaling_factor=factor,
            sliding_window=get("sliding_window_size"),
            share_embeddings_and_output_weights=megatron_llm.HEAD not in source.infos,
        )
        problems = model.problems()
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConvertError(f"{where}: its arguments do not describe a model: {error!r}") from None
    if problems:
        raise ConvertError(f"{where}: " + "; ".join(problems))
    return model
