"""Layers without biases are built by either version of megatron-core."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from megatron.core.transformer.mlp import MLP

from megatron_train.model.biases import MlpWithoutBias


def test_an_mlp_takes_the_tensor_parallel_group_of_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """megatron-core 0.19 gives an MLP of a subclass all groups, and 0.16 gives it none."""
    given: list[tuple[bool, dict[str, Any]]] = []
    monkeypatch.setattr(
        MLP, "__init__", lambda self, config, **settings: given.append((config.add_bias_linear, settings))
    )
    config: Any = SimpleNamespace(add_bias_linear=True, add_qkv_bias=True)
    groups = SimpleNamespace(tp="tensor ranks", dp="data ranks")
    MlpWithoutBias(config, pg_collection=groups, is_mtp_layer=False, name="mlp")
    MlpWithoutBias(config)
    assert given == [(False, {"tp_group": "tensor ranks", "name": "mlp"}), (False, {})]
