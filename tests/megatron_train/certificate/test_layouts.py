from __future__ import annotations

import pytest

from megatron_train.certificate.layouts import NamedLayout
from megatron_train.config.settings import Parallel
from pretokenizer.config.yaml_config import ConfigError


def test_a_name_gives_settings_and_ranks() -> None:
    layout = NamedLayout.of("tp2-pp4-vpp2-dp3-sp-overlap")
    assert layout.parallel == Parallel(
        tensor_model_parallel_size=2,
        pipeline_model_parallel_size=4,
        virtual_pipeline_model_parallel_size=2,
        sequence_parallel=True,
        overlap_grad_reduce=True,
        overlap_param_gather=True,
    )
    assert (layout.dp, layout.world_size) == (3, 24)
    assert NamedLayout.of("one") == NamedLayout(Parallel(), 1)


@pytest.mark.parametrize("name", ["one", "tp2-sp", "pp2-vpp2-dp2-overlap", "dp2-overlap-reduce", "pp4-first1-last2"])
def test_a_layout_has_the_name_it_was_made_from(name: str) -> None:
    assert str(NamedLayout.of(name)) == name


@pytest.mark.parametrize("name", ["", "tp", "tp0", "cp2", "sp2", "tp2+pp2", "2tp", "overlap2", "first0"])
def test_a_name_that_cannot_be_understood_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="is none of tpN, ppN, vppN, firstN, lastN, dpN, sp, overlap, overlap-reduce"):
        NamedLayout.of(name)


@pytest.mark.parametrize(
    ("name", "processes", "reduced"),
    [
        ("tp2-pp2-sp", 16, "tp2-pp2-sp"),
        ("tp8-pp8", 16, "tp4-pp4"),
        ("tp8-pp4-vpp5-dp8-sp", 16, "tp2-pp4-vpp2-dp2-sp"),
        ("tp8-pp4-vpp5-dp8-sp", 4, "tp2-pp2-vpp2-sp"),
        ("pp8", 4, "pp4"),
        ("pp8-first9-last9", 16, "pp4-first1-last1"),
        ("pp2-vpp2-first6-last10", 16, "pp2-vpp2-first2-last4"),
        ("dp64-overlap", 16, "dp2-overlap"),
        ("tp8-sp", 1, "one"),
    ],
)
def test_a_large_layout_is_reduced_and_keeps_its_kinds_of_parallelism(name: str, processes: int, reduced: str) -> None:
    assert str(NamedLayout.of(name).reduced(processes)) == reduced
