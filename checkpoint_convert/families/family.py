"""What a family is: a table of weights, and config.json <-> ModelConfig with every field carried or refused by name.

family, model = read_hf_config(Path("HF_DIR/config.json"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_convert.mapping.rules import Rule, Table, expand
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import Family as FamilyName
from megatron_train.config.model_config import ModelConfig
from pretokenizer.config.yaml_config import suggest
from pretokenizer.files.publish import read_json

HfConfig = dict[str, Any]


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


WITHOUT_EFFECT = words("""
    architectures model_type _name_or_path transformers_version torch_dtype dtype use_cache auto_map tokenizer_class
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id unk_token_id attention_dropout hidden_dropout
    classifier_dropout pretraining_tp gradient_checkpointing return_dict output_attentions output_hidden_states
    is_decoder torchscript use_bfloat16 chunk_size_feed_forward is_encoder_decoder add_cross_attention
    tie_encoder_decoder id2label label2id problem_type finetuning_task task_specific_params prefix
    _attn_implementation _attn_implementation_autoset unsloth_version
    """)
"""Fields of config.json that say nothing about the network, or only how to train it. Token ids are handled with the
tokenizer; code that auto_map names is never loaded."""


@dataclass(frozen=True)
class Family:
    """One architecture family of Hugging Face. Config fields outside `fields` are refused."""

    name: FamilyName
    model_types: tuple[str, ...]
    fields: frozenset[str]
    weights: Callable[[ModelConfig], tuple[Rule, ...]]
    """The table for an architecture; `{layer}` stands for each layer."""
    to_model_config: Callable[[HfConfig], dict[str, Any]]
    """config.json -> the fields of ModelConfig, vocabulary sizes apart."""
    to_hf_config: Callable[[ModelConfig], HfConfig]
    """ModelConfig -> config.json, token ids, dtype and vocab_size apart; `hf_config` checks that nothing is lost."""
    tied_copy: str
    """Name of the output layer, which a file of a tied model may repeat."""
    buffers: tuple[str, ...] = ()
    """Ends of names that old files hold and that are no weights (masks, rotary tables)."""

    def hf_config(self, model: ModelConfig) -> HfConfig:
        """config.json, token ids and dtype apart. Raises ConvertError naming fields that would be lost in it."""
        config = self.to_hf_config(model) | {"vocab_size": model.vocab_size}
        back = model_config_of(config, {self.name: self}, Path(f"{self.name} config.json"))
        lost = [f"{name} = {getattr(model, name)!r}" for name in differing_fields(model, back)]
        if lost:
            raise ConvertError(f"a {self.name} model of transformers has no place for {', '.join(lost)}")
        return config

    def table(self, model: ModelConfig) -> Table:
        """Every tensor of Hugging Face's model and its place in megatron-core's."""
        rules = expand(self.weights(model), model.num_layers)
        return Table(f"{self.name} model", rules, self.tied_copy, self.buffers)


def read_hf_config(path: Path) -> HfConfig:
    """config.json as a dict. Raises ConvertError naming the file."""
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise ConvertError(f"{path}: missing; {path.parent} is not a Hugging Face model folder") from None
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path}: cannot read: {error}") from None
    if not isinstance(config, dict):
        raise ConvertError(f"{path}: expected a JSON object")
    return config


def model_config_of(config: HfConfig, families: dict[str, Family], path: Path) -> ModelConfig:
    """The architecture of a Hugging Face config. Raises ConvertError with every field that cannot be carried."""
    family = _family_of(config, families, path)
    if config.get("quantization_config"):
        raise ConvertError(
            f"{path}: quantization_config is set: quantized weights cannot be converted, take the original ones"
        )
    unknown = sorted(set(config) - family.fields - WITHOUT_EFFECT)
    if unknown:
        named = ", ".join(f"{key} = {config[key]!r}"[:80] + suggest(key, family.fields) for key in unknown)
        raise ConvertError(f"{path}: no place for {named} in a {family.name} model; remove a field that has no effect")
    rows = positive(
        config, "vocab_size", 50432 if family.name == "gpt_neox" else 65024 if family.name == "falcon" else 32000
    )
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


def differing_fields(first: ModelConfig, second: ModelConfig) -> list[str]:
    """Names of the fields in which two architectures differ, rows of the vocabulary apart."""
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


LARGEST = {"vocab_size": 2**24, "hidden_size": 2**20, "num_hidden_layers": 2**14, "max_position_embeddings": 2**31}


def positive(config: HfConfig, key: str, default: int | None = None) -> int:
    """A whole number of at least 1 and of sane size. Raises ConvertError naming key and value."""
    value = config.get(key, default)
    if value is None:
        raise ConvertError(f"{key} is missing")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST.get(key, 2**24):
        raise ConvertError(f"{key} is {value!r}; expected a whole number from 1 to {LARGEST.get(key, 2**24):,}")
    return value


def refuse_unless(config: HfConfig, key: str, *accepted: Any) -> None:
    """Raises ConvertError when `key` is given with a value that the trainer cannot compute."""
    if key in config and config[key] not in accepted:
        raise ConvertError(f"{key} = {config[key]!r} is not supported (only {', '.join(map(repr, accepted))})")


def one_of(config: HfConfig, key: str, names: dict[str, str], default: str) -> str:
    """The ModelConfig value for a word of Hugging Face. Raises ConvertError listing what is supported."""
    value = config.get(key, default)
    if value not in names:
        raise ConvertError(f"{key} = {value!r} is not supported (only {', '.join(sorted(names))})")
    return names[value]
