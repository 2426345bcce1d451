"""The settings of an import into CKPT_DIR/release and of an export to a Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from checkpoint_convert.mapping.vocabulary import NewTokenInit


@dataclass(frozen=True)
class ImportOptions:
    """Settings of from-hf and of the other commands that import weights into CKPT_DIR/release."""

    extra_special_tokens: tuple[str, ...] = ()
    new_tokens: bool = True
    """Whether extra tokens of a SentencePiece vocabulary follow Megatron's <CLS> <SEP> <EOD> <MASK> <PAD>."""
    dtype: torch.dtype | None = None
    """Dtype of the written weights. None: the dtype of most weights in the source."""
    make_vocab_size_divisible_by: int = 128
    new_token_init: NewTokenInit = "mean"
    seed: int = 1234
    ignored_fields: tuple[str, ...] = ()
    """Unknown fields of config.json that the user declares to have no effect on the model."""


@dataclass(frozen=True)
class ExportOptions:
    """Settings of to-hf, the export to a Hugging Face folder."""

    dtype: torch.dtype | None = None
    """Dtype of the written weights. None: the dtype of most weights in the checkpoint."""
    max_shard_bytes: int = 2_000_000_000
    """Largest size of one safetensors file in bytes, unless a single tensor is larger."""
    iteration: int | None = None
    vocab_size: str = "auto"
    """Embedding rows to write: `source` = as many as the imported source had, `tokenizer` = one for each of its tokens,
    a number, or `auto` = the larger of source and tokenizer."""
    check_sums: bool = True
    """Whether the checkpoint is compared with its SHA256SUMS before anything is published."""
    hub_name: str | None = None
    """ORG/NAME under which the folder will be uploaded. The model card names it."""
    is_temporary: bool = False
    """Whether the checkpoint is removed after the export. receipt.json then does not name it."""
    license: str | None = None
    """Identifier of the licence for the model card, such as `apache-2.0`."""
    language: tuple[str, ...] = ()
    """Codes of the languages for the model card, such as `en`."""
    datasets: tuple[str, ...] = ()
    """Names of the data sets on the hub for the model card."""
