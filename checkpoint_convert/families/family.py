"""A model family: its table of weights, and the conversion between Hugging Face's config.json and ModelConfig.

config = read_hf_config(Path("HF_DIR/config.json"))
check_fields(config, FAMILIES, path)                     # every field is known, or has no effect
model = model_config_of(config, FAMILIES, path)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoint_convert.mapping.rules import Rule, Table, expand
from checkpoint_convert.output.report import warn
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.checkpoint.recognize import described
from megatron_train.config.model_config import Family as FamilyName
from megatron_train.config.model_config import ModelConfig
from pretokenizer.files.publish import read_json_object

HfConfig = dict[str, Any]


def words(text: str) -> frozenset[str]:
    """Split a text at spaces and line breaks, and return its words as a set."""
    return frozenset(text.split())


WITHOUT_EFFECT = words("""
    custom_pipelines max_sequence_length ff_factor is_llama_config transformers.js_config hidden_dropout_prob
    attention_probs_dropout_prob max_length min_length do_sample early_stopping num_beams num_beam_groups
    diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size num_return_sequences output_scores return_dict_in_generate remove_invalid_values
    bad_words_ids forced_bos_token_id forced_eos_token_id exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens decoder_start_token_id cross_attention_hidden_size pruned_heads tf_legacy_loss
    mlp_dropout embd_pdrop resid_pdrop attn_pdrop use_flash_attn _flash_attn_2_enabled
    architectures model_type _name_or_path transformers_version torch_dtype dtype use_cache auto_map tokenizer_class
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id unk_token_id attention_dropout hidden_dropout
    classifier_dropout pretraining_tp gradient_checkpointing return_dict output_attentions output_hidden_states
    is_decoder torchscript use_bfloat16 chunk_size_feed_forward is_encoder_decoder add_cross_attention
    tie_encoder_decoder id2label label2id problem_type finetuning_task task_specific_params prefix
    _attn_implementation _attn_implementation_autoset unsloth_version unsloth_fixed model_max_length
    _commit_hash attn_implementation use_flash_attention_2 neftune_noise_alpha
    tokenizer_model_max_length tokenizer_padding_side bos_token eos_token pad_token
    """)
"""Fields of config.json that do not change the network: they concern training, generation or tools.

Token ids come from the tokenizer's files instead. The code that `auto_map` names is never loaded.
"""

EMPTY: tuple[Any, ...] = (None, False, 0, "", {}, [])
"""Values that mean "not set". An unknown field of config.json with such a value leaves the network unchanged."""
CLOSE_NAME = 0.85
"""Similarity (difflib's ratio, 0 to 1) at which an error message suggests a known field for an unknown one."""


@dataclass(frozen=True)
class Family:
    """One model family, such as Llama: how its weights and config.json are converted to megatron-core's and back."""

    name: FamilyName
    model_types: tuple[str, ...]
    fields: frozenset[str]
    """Fields of config.json that `to_model_config` reads."""
    weights: Callable[[ModelConfig], tuple[Rule, ...]]
    """Returns the rules that rename and reshape the weights of an architecture. `{layer}` stands for a layer's number.
    """
    to_model_config: Callable[[HfConfig], dict[str, Any]]
    """Converts config.json to the fields of ModelConfig, except vocabulary sizes."""
    to_hf_config: Callable[[ModelConfig], HfConfig]
    """Converts ModelConfig to the fields of config.json, without token ids, dtype and vocab_size."""
    tied_copy: str
    """Name of the output layer. A tied model shares the embedding's weights with it; its files may hold them twice."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Usual tensor name -> another name that some files use for the same tensor."""
    buffers: tuple[str, ...] = ()
    """Endings of tensor names in old files that are not weights (masks, rotary tables)."""

    def hf_config(self, model: ModelConfig) -> HfConfig:
        """Return the config.json of a model, without token ids and dtype.

        Raises ConvertError naming the fields of the model that this family's config.json cannot express.
        """
        config = self.to_hf_config(model) | {"vocab_size": model.vocab_size}
        back = model_config_of(config, {self.name: self}, Path(f"{self.name} config.json"))
        lost = [f"{name} = {getattr(model, name)!r}" for name in differing_fields(model, back)]
        if lost:
            raise ConvertError(f"a {self.name} model of transformers cannot have {', '.join(lost)}")
        return config

    def table(self, model: ModelConfig) -> Table:
        """Return the rules that convert every tensor of a model, repeated for all of its layers."""
        rules = expand(self.weights(model), model.num_layers)
        return Table(f"{self.name} model", rules, self.tied_copy, self.aliases, self.buffers)


def read_hf_config(path: Path) -> HfConfig:
    """Return config.json as a dict. Raises ConvertError naming the file when it is missing or not a JSON object."""
    config = read_json_object(path, ConvertError) if path.parent.is_dir() else None
    if config is None:
        raise ConvertError(f"{path}: missing; {path.parent} {described(path.parent)}")
    return config


def model_config_of(config: HfConfig, families: dict[str, Family], path: Path) -> ModelConfig:
    """Convert a Hugging Face config.json to ModelConfig. Raises ConvertError naming unsupported values.

    `families` are the supported model families by name, and `path` is the file that messages name. Unknown fields are
    ignored here; check_fields reports them.
    """
    family = _family_of(config, families, path)
    if config.get("quantization_config"):
        raise ConvertError(
            f"{path}: quantization_config is set: quantized weights cannot be converted, take the original ones"
        )
    rows = positive(config, "vocab_size", DEFAULT_ROWS[family.name])
    try:
        model = ModelConfig(
            family=family.name, vocab_size=rows, source_vocab_size=rows, **family.to_model_config(config)
        )
        problems = model.problems()
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConvertError(f"{path}: not a usable {family.name} config: {error!r}") from None
    if problems:
        raise ConvertError(f"{path}: " + "; ".join(problems))
    return model


def check_fields(config: HfConfig, families: dict[str, Family], path: Path, ignored: Collection[str] = ()) -> None:
    """Warn about unknown fields of config.json. Raises ConvertError if one of them may change the model.

    An unknown field is known to have no effect when it is empty, when it has the default value of transformers, or when
    `ignored` names it. `path` is the file that messages name.
    """
    family = _family_of(config, families, path)
    unknown = sorted(set(config) - family.fields - WITHOUT_EFFECT - {"quantization_config"})
    doubtful = [key for key in unknown if not _is_neutral(key, config[key]) and key not in ignored]
    if doubtful:
        defaults = _transformers_defaults(str(config["model_type"]))
        doubtful = [key for key in doubtful if key not in defaults or defaults[key] != config[key]]
    if doubtful:
        found = ", ".join(f"{key} = {config[key]!r}"[:80] + _suggestion(key, family.fields) for key in doubtful)
        raise ConvertError(
            f"{path}: unknown fields may change a {family.name} model: {found}; "
            "correct the name, or pass --ignore_config_field NAME for a field without effect"
        )
    if unknown:
        warn(f"{path}: fields without effect on the model are left out: {', '.join(unknown)}")


def _is_neutral(key: str, value: Any) -> bool:
    """Return whether an unknown field of config.json has a value that leaves the network unchanged.

    Such values are empty ones, `full_attention` for every layer, and a rotary share of 1.
    """
    if key == "layer_types" and isinstance(value, list):
        return set(map(str, value)) <= {"full_attention"}
    return value in EMPTY or (key == "partial_rotary_factor" and value == 1)


def _transformers_defaults(model_type: str) -> dict[str, Any]:
    """Return transformers' default config.json for a `model_type`, or {} for a type that transformers lacks."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return dict(CONFIG_MAPPING[model_type]().to_dict()) if model_type in CONFIG_MAPPING else {}


def _suggestion(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, 1, CLOSE_NAME)
    return f" (did you mean {close[0]!r}?)" if close else ""


def differing_fields(first: ModelConfig, second: ModelConfig) -> list[str]:
    """Return the names of the fields in which two architectures differ, ignoring vocabulary sizes."""
    rows = {"vocab_size", "padded_vocab_size", "make_vocab_size_divisible_by", "source_vocab_size"}
    return [name for name in vars(first) if name not in rows and getattr(first, name) != getattr(second, name)]


def _family_of(config: HfConfig, families: dict[str, Family], path: Path) -> Family:
    known = {model_type: family for family in families.values() for model_type in family.model_types}
    model_type = config.get("model_type")
    if model_type not in known:
        raise ConvertError(
            f"{path}: model_type {model_type!r} is not supported; supported are {', '.join(sorted(known))}"
        )
    return known[model_type]


DEFAULT_ROWS = {"llama": 32000, "qwen2": 151936, "qwen3": 151936, "gpt_neox": 50432, "falcon": 65024}
"""Vocabulary sizes that transformers assumes when config.json states none."""
LARGEST = {"vocab_size": 2**24, "hidden_size": 2**20, "num_hidden_layers": 2**14, "max_position_embeddings": 2**31}


def positive(config: HfConfig, key: str, default: int | None = None) -> int:
    """Return the whole number that config.json has under `key`, or `default` when the key is absent.

    Raises ConvertError when there is neither, or when the value is not a whole number from 1 to LARGEST[key] (2^24 for
    keys that LARGEST lacks).
    """
    value = config.get(key, default)
    if value is None:
        raise ConvertError(f"{key} is missing")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST.get(key, 2**24):
        raise ConvertError(f"{key} is {value!r}; expected a whole number from 1 to {LARGEST.get(key, 2**24):,}")
    return value


def refuse_unless(config: HfConfig, key: str, *accepted: Any) -> None:
    """Raise ConvertError when config.json has `key` with a value that is not one of the `accepted` ones."""
    if key in config and config[key] not in accepted:
        raise ConvertError(f"{key} = {config[key]!r} is not supported (only {', '.join(map(repr, accepted))})")


def one_of(config: HfConfig, key: str, names: dict[str, str], default: str) -> str:
    """Return ModelConfig's word for the value that config.json has under `key`, such as an activation function.

    `names` maps values of config.json to these words. An absent key has the value `default`. Raises ConvertError
    listing the supported values.
    """
    value = config.get(key, default)
    if value not in names:
        raise ConvertError(f"{key} = {value!r} is not supported (only {', '.join(sorted(names))})")
    return names[value]
