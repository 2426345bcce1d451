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


def test_uneven_stages_and_their_chunks() -> None:
    uneven = ParallelLayout(world_size=4, pp=4, first_layers=1, last_layers=3)
    assert [list(uneven.layers_of_stage(8, stage)) for stage in range(4)] == [[0], [1, 2], [3, 4], [5, 6, 7]]
    interleaved = ParallelLayout(world_size=2, pp=2, vpp=2, first_layers=2)
    assert [list(interleaved.layers_of_stage(8, stage, chunk)) for chunk in (0, 1) for stage in (0, 1)] == [
        [0],
        [1, 2, 3],
        [4],
        [5, 6, 7],
    ]


@pytest.mark.parametrize(
    ("pp", "vpp", "first", "last", "problem"),
    [
        (4, 1, 5, 4, "decoder_first_pipeline_num_layers 5 and decoder_last_pipeline_num_layers 4 leave -1 of the 8 "),
        (4, 1, 3, None, "leave 5 of the 8 layers to the other 3 pipeline stages; leave a positive multiple of 3"),
        (2, 1, 3, 4, "leave 1 of the 8 layers to the other 0 pipeline stages; leave none"),
        (2, 2, 3, None, "virtual_pipeline_model_parallel_size 2 does not divide the layers of every stage: 3, 5"),
        (3, 1, None, None, "num_layers 8 is not a multiple of pipeline stages 3 x chunks 1; --decoder_first_pipeline"),
    ],
)
def test_layers_that_cannot_be_split(pp: int, vpp: int, first: int | None, last: int | None, problem: str) -> None:
    layout = ParallelLayout(world_size=pp, pp=pp, vpp=vpp, first_layers=first, last_layers=last)
    assert layout.problems() == []
    (found,) = layout.split_problems(8)
    assert problem in found


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
        (
            ParallelLayout(first_layers=2),
            "decoder_first_pipeline_num_layers needs pipeline_model_parallel_size of at least 2",
        ),
        (
            ParallelLayout(world_size=2, pp=2, last_layers=0),
            "decoder_last_pipeline_num_layers is 0; it must be at least 1",
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
