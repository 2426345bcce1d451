from __future__ import annotations

from types import SimpleNamespace

import pytest

from megatron_train.model.lima_dropout import lima_rate, set_residual_dropout


def test_lima_rate_of_the_card() -> None:
    """The rates over 80 layers are linspace(0, 0.25, 80)."""
    rates = [lima_rate(0.25, layer, 80) for layer in (1, 2, 40, 79, 80)]
    assert rates == pytest.approx([0.0, 0.00316456, 0.12341772, 0.24683544, 0.25], abs=1e-8)


def test_lima_rate_of_one_layer_is_zero() -> None:
    assert lima_rate(0.25, 1, 1) == 0.0


def decoder(*layer_numbers: int) -> SimpleNamespace:
    return SimpleNamespace(layers=[SimpleNamespace(layer_number=number) for number in layer_numbers])


def test_set_residual_dropout_counts_layers_over_all_stages() -> None:
    second_stage = decoder(3, 4)
    set_residual_dropout(second_stage, 0.3, lima=True, num_layers=4)
    assert [layer.hidden_dropout for layer in second_stage.layers] == pytest.approx([0.2, 0.3])


def test_set_residual_dropout_without_lima_is_uniform() -> None:
    stage = decoder(1, 2)
    set_residual_dropout(stage, 0.3, lima=False, num_layers=4)
    assert [layer.hidden_dropout for layer in stage.layers] == [0.3, 0.3]
