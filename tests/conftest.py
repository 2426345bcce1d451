"""Fixtures of more than one package: toy shards with roles, and a miniature architecture."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: small tensors, and processes share the cores

import numpy as np
import pytest

from megatron_train.model_config import ModelConfig
from pretokenizer.shard import ShardWriter

TOY_VOCAB_SIZE = 120


def write_shard(prefix: Path, documents: list[tuple[list[int], list[int]]]) -> str:
    """Writes PREFIX-text and PREFIX-role from (token_ids, role_ids) pairs; returns the prefix as text."""
    with ShardWriter(f"{prefix}-text", np.uint16) as text, ShardWriter(f"{prefix}-role", np.uint16) as role:
        for token_ids, role_ids in documents:
            text.add(token_ids)
            role.add(role_ids)
    return str(prefix)


def toy_documents(count: int, seed: int = 0, longest: int = 40) -> list[tuple[list[int], list[int]]]:
    """Documents of 4 to `longest` random tokens: user (role 1) first, then assistant (role 2); each has both."""
    rng = np.random.RandomState(seed)
    documents = []
    for _ in range(count):
        size = int(rng.randint(4, longest + 1))
        asked = int(rng.randint(1, size - 1))
        tokens = rng.randint(3, TOY_VOCAB_SIZE, size).tolist()
        documents.append((tokens, [1] * asked + [2] * (size - asked)))
    return documents


@pytest.fixture(scope="session")
def toy_shard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prefix of a shard of 64 documents, seed 0."""
    return write_shard(tmp_path_factory.mktemp("toy") / "toy", toy_documents(64))


@pytest.fixture(scope="session")
def tiny_model_config() -> ModelConfig:
    """A Llama of 4 layers with 4 heads in 2 groups."""
    return ModelConfig(
        family="llama",
        num_layers=4,
        hidden_size=64,
        ffn_hidden_size=96,
        num_attention_heads=4,
        num_query_groups=2,
        vocab_size=TOY_VOCAB_SIZE,
        max_position_embeddings=64,
    )
