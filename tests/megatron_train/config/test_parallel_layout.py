from __future__ import annotations

import pytest

from megatron_train.config.parallel_layout import Coordinates, ParallelLayout


def test_coordinates_run_over_tensor_then_data_then_pipeline() -> None:
    layout = ParallelLayout(world_size=8, tp=2, pp=2)
    assert layout.dp == 2
    assert [tuple(layout.coordinates(rank)) for rank in range(8)] == [
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1),
    ]  # fmt: skip
    assert layout.coordinates(5) == Coordinates(tp=1, dp=0, pp=1)


def test_layers_of_a_stage_and_of_an_interleaved_chunk() -> None:
    plain = ParallelLayout(world_size=4, pp=4)
    assert [list(plain.layers_of_stage(8, stage)) for stage in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    interleaved = ParallelLayout(world_size=2, pp=2, vpp=2)
    assert [list(interleaved.layers_of_stage(8, stage, chunk)) for chunk in (0, 1) for stage in (0, 1)] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
    ]


def test_sound_layouts_have_no_problems() -> None:
    assert ParallelLayout(world_size=64, tp=8, pp=4, vpp=5).problems() == []


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        (
            ParallelLayout(world_size=6, tp=2, pp=2),
            "world size 6 is not a multiple of tensor_model_parallel_size 2 x pipeline_model_parallel_size 2 = 4; "
            "launch with --nproc_per_node x nodes = 4, 8, ...",
        ),
        (ParallelLayout(tp=0), "tensor parallel size is 0; it must be at least 1"),
        (
            ParallelLayout(vpp=2),
            "virtual_pipeline_model_parallel_size needs pipeline_model_parallel_size of at least 2",
        ),
    ],
)
def test_problems_say_the_remedy(layout: ParallelLayout, problem: str) -> None:
    assert layout.problems() == [problem]


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 2), (1, 4), (4, 1)])
def test_coordinates_agree_with_megatron_core(tp: int, pp: int) -> None:
    from megatron.core.parallel_state import RankGenerator

    generator = RankGenerator(tp=tp, ep=1, dp=8 // (tp * pp), pp=pp, cp=1, order="tp-cp-ep-dp-pp")
    layout = ParallelLayout(world_size=8, tp=tp, pp=pp)
    for axis in ("tp", "dp", "pp"):
        for group in generator.get_ranks(axis):
            assert [getattr(layout.coordinates(rank), axis) for rank in group] == list(range(len(group)))
