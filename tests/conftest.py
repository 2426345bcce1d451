"""A tiny architecture, toy documents and their shards, for the tests of several packages."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["OASST_DEVICE"] = "cpu"  # several ranks share one machine, whatever GPUs it has
os.environ.setdefault("OMP_NUM_THREADS", "1")  # set before torch is imported, because the processes share the cores

import numpy as np
import pytest

from megatron_train.config.model_config import ModelConfig
from pretokenizer.files.shard import ShardWriter
from tests.tiers import mark_tests

TINY_LLAMA = ModelConfig(
    family="llama",
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=4,
    num_query_groups=2,
    vocab_size=120,
    max_position_embeddings=64,
)


def write_shard(prefix: Path, documents: list[tuple[list[int], list[int]]]) -> str:
    """Write PREFIX-text and PREFIX-role from (token_ids, role_ids) pairs, and return the prefix as text."""
    with ShardWriter(f"{prefix}-text", np.uint16) as text, ShardWriter(f"{prefix}-role", np.uint16) as role:
        for token_ids, role_ids in documents:
            text.add(token_ids)
            role.add(role_ids)
    return str(prefix)


def toy_documents(count: int, seed: int = 0, longest: int = 40) -> list[tuple[list[int], list[int]]]:
    """Return documents of 4 to `longest` random tokens: first the user's (role 1), then the assistant's (role 2)."""
    rng = np.random.RandomState(seed)
    documents = []
    for _ in range(count):
        size = int(rng.randint(4, longest + 1))
        asked = int(rng.randint(1, size - 1))
        tokens = rng.randint(3, TINY_LLAMA.vocab_size, size).tolist()
        documents.append((tokens, [1] * asked + [2] * (size - asked)))
    return documents


@pytest.fixture(scope="session")
def tiny_model_config() -> ModelConfig:
    return TINY_LLAMA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_tests(items)
