"""The architecture of a model, in megatron-core's names. SHARED and torch-free.

A file of configs/model/*.yaml or the `model_config.yaml` inside a checkpoint holds exactly these keys:

    >>> ModelConfig.load("configs/model/llama2_70b.yaml").num_parameters()
    68976648192
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import yaml

from pretokenizer.config.yaml_config import ConfigError, from_mapping, load_yaml
from pretokenizer.files.publish import write_text_atomic

Family = Literal["llama", "qwen2", "qwen3", "gpt_neox", "falcon"]


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of one decoder-only transformer. Sizes are numbers of elements, not bytes."""

    family: Family
    """Model family. It selects the table in checkpoint_convert/families that maps weights to Hugging Face."""
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    """Width of the MLP; with `gated_linear_unit`, the width of the gate and of the up projection each."""
    num_attention_heads: int
    vocab_size: int
    """Embedding rows in use: the larger of the source checkpoint's rows and the tokenizer's length."""
    max_position_embeddings: int
    num_query_groups: int | None = None
    """Number of key/value heads; None = as many as attention heads."""
    kv_channels: int | None = None
    """Width of one attention head; None = hidden_size / num_attention_heads."""
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    layernorm_epsilon: float = 1e-5
    gated_linear_unit: bool = True
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    add_bias_linear: bool = False
    """Whether linear layers have biases; `bias_in` says which layers."""
    bias_in: Literal["all", "attention", "mlp"] = "all"
    """Which linear layers have the biases of `add_bias_linear`."""
    add_qkv_bias: bool = False
    """Whether the query/key/value projection has biases, even if no other layer has (Qwen2)."""
    qk_layernorm: bool = False
    """Whether a norm applies to the channels of each query head and each key head (Qwen3)."""
    parallel_residual: bool = False
    """Whether a layer computes x + attention(norm(x)) + mlp(norm(x)), instead of attention and then MLP."""
    shared_norm: bool = False
    """With parallel_residual: whether attention and MLP read the same normalized input (Falcon-7B)."""
    rotary_percent: float = 1.0
    rotary_base: float = 10000.0
    rope_scaling_type: Literal["none", "linear", "llama3", "yarn", "dynamic"] = "none"
    """Rule that scales rotary positions. The trainer computes all but dynamic; yarn only with rotary_percent 1."""
    rope_scaling_factor: float = 1.0
    """linear: positions are divided by it. llama3, yarn and dynamic: the factor of the rule.

    The other numbers of llama3 are those of Llama 3.1: frequency factors 1 and 4, original length 8192 tokens.
    """
    rope_original_max_positions: int | None = None
    """For yarn and dynamic: context length in tokens before scaling; None = max_position_embeddings."""
    sliding_window: int | None = None
    """Number of tokens that a query attends to, itself included (Mistral); None = itself and all tokens before it."""
    share_embeddings_and_output_weights: bool = False
    init_method_std: float = 0.02
    make_vocab_size_divisible_by: int = 128
    padded_vocab_size: int | None = None
    """Embedding rows that are allocated, whatever a run's layout.

    None = `vocab_size` rounded up to a multiple of `make_vocab_size_divisible_by`.
    """
    source_vocab_size: int | None = None
    """Embedding rows of the Hugging Face checkpoint that the model came from; None without such a checkpoint."""

    def __post_init__(self) -> None:
        if self.num_query_groups is None:
            object.__setattr__(self, "num_query_groups", self.num_attention_heads)
        if self.kv_channels is None and self.num_attention_heads > 0:
            object.__setattr__(self, "kv_channels", self.hidden_size // self.num_attention_heads)
        if self.padded_vocab_size is None:
            object.__setattr__(
                self, "padded_vocab_size", pad_vocab_size(self.vocab_size, self.make_vocab_size_divisible_by)
            )

    @property
    def has_attention_bias(self) -> bool:
        """Return whether all projections of attention have biases."""
        return self.add_bias_linear and self.bias_in != "mlp"

    @property
    def has_mlp_bias(self) -> bool:
        """Return whether the linear layers of the MLP have biases."""
        return self.add_bias_linear and self.bias_in != "attention"

    @property
    def untrainable_part(self) -> str:
        """Return the settings of the model that the trainer cannot compute, such as `rope_scaling_type dynamic`.

        Return an empty text if the trainer can compute the whole model. Under dynamic scaling, the frequencies depend
        on the length of each text, but megatron-core has one table for all texts. Its table for yarn rotates whole
        heads.
        """
        if self.rope_scaling_type == "dynamic":
            return "rope_scaling_type dynamic"
        if self.rope_scaling_type == "yarn" and self.rotary_percent < 1:
            return f"rope_scaling_type yarn with rotary_percent {self.rotary_percent}"
        return ""

    @property
    def original_positions(self) -> int:
        """Return the context length in tokens before the scaling of rotary positions, which is never None."""
        return self.rope_original_max_positions or self.max_position_embeddings

    @property
    def query_groups(self) -> int:
        """Return the number of key/value heads, which is never None."""
        return self.num_query_groups or self.num_attention_heads

    @property
    def head_dim(self) -> int:
        """Return the width of one attention head, which is never None."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def is_swiglu(self) -> bool:
        """Whether the MLP is gated with SiLU."""
        return self.gated_linear_unit and self.activation == "silu"

    @property
    def padded_vocab(self) -> int:
        """Number of embedding rows that are allocated: `padded_vocab_size` as a type without None."""
        return self.padded_vocab_size or pad_vocab_size(self.vocab_size, self.make_vocab_size_divisible_by)

    @classmethod
    def load(cls, path: str | Path) -> ModelConfig:
        """Read and check a model's YAML file. Raises ConfigError naming the file and every problem."""
        config = from_mapping(cls, load_yaml(path), str(path))
        problems = config.problems()
        if problems:
            raise ConfigError(f"{path}: " + "; ".join(problems))
        return config

    def save(self, path: str | Path) -> None:
        write_text_atomic(Path(path), yaml.safe_dump(asdict(self), sort_keys=False))

    def with_positions(self, positions: int | None) -> ModelConfig:
        """Return the model with `max_position_embeddings` raised to `positions`, or unchanged if it is that large.

        None changes nothing. The weights stay the same, because rotary embeddings have none.
        """
        if positions is None or positions <= self.max_position_embeddings:
            return self
        original = self.original_positions if self.rope_scaling_type == "yarn" else self.rope_original_max_positions
        return replace(self, max_position_embeddings=positions, rope_original_max_positions=original)

    def problems(self) -> list[str]:
        """Return a message for everything that makes this architecture impossible; [] if it is possible."""
        found = []
        for name in (
            "num_layers",
            "hidden_size",
            "ffn_hidden_size",
            "num_attention_heads",
            "vocab_size",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                found.append(f"{name} is {getattr(self, name)}; it must be at least 1")
        if found:
            return found
        if self.num_attention_heads % self.query_groups:
            found.append(
                f"num_query_groups {self.query_groups} does not divide num_attention_heads {self.num_attention_heads}"
            )
        if not 0 < self.rotary_percent <= 1:
            found.append(f"rotary_percent is {self.rotary_percent}; it must be above 0 and at most 1")
        if self.shared_norm and not self.parallel_residual:
            found.append("shared_norm needs parallel_residual: true")
        if self.padded_vocab < self.vocab_size:
            found.append(f"padded_vocab_size {self.padded_vocab} is below vocab_size {self.vocab_size}")
        if self.rope_scaling_factor < 1:
            found.append(f"rope_scaling_factor is {self.rope_scaling_factor}; it must be at least 1")
        return found

    def num_parameters(self, vocab_rows: int | None = None) -> int:
        """Return the number of parameters of the model with `vocab_rows` embedding rows, by default `vocab_size`.

        With `padded_vocab` rows, it is the number of parameters in memory.
        """
        rows = self.vocab_size if vocab_rows is None else vocab_rows
        embeddings = rows * self.hidden_size * (1 if self.share_embeddings_and_output_weights else 2)
        return embeddings + self.num_layers * self.parameters_per_layer() + self._norm_parameters()

    def parameters_per_layer(self) -> int:
        """Return the number of parameters of one transformer layer: weights, biases and norms."""
        queries, groups = self.num_attention_heads * self.head_dim, self.query_groups * self.head_dim
        qkv, fc1 = queries + 2 * groups, self.ffn_hidden_size * (2 if self.gated_linear_unit else 1)
        weights = self.hidden_size * (qkv + queries + fc1 + self.ffn_hidden_size)
        biases = (qkv if self.has_attention_bias or self.add_qkv_bias else 0) + (
            (self.hidden_size if self.has_attention_bias else 0) + (fc1 + self.hidden_size if self.has_mlp_bias else 0)
        )
        head_norms = 2 * self.head_dim if self.qk_layernorm else 0
        return weights + biases + head_norms + self._norm_parameters() * (1 if self.shared_norm else 2)

    def _norm_parameters(self) -> int:
        return self.hidden_size * (1 if self.normalization == "RMSNorm" else 2)


def pad_vocab_size(vocab_size: int, multiple: int) -> int:
    """Return `vocab_size` rounded up to a multiple of `multiple`: 32,007 at 128 gives 32,128."""
    return -(-vocab_size // multiple) * multiple
