"""The layers have sound gradient types over tensor-parallel ranks, by the type checker of the package spmd-types.

The checker follows each tensor of a forward pass, and refuses a step after which gradients would miss a sum over ranks
or get one too many. Types of a tensor over the tensor-parallel ranks:

I, invariant    same values and same gradients on all ranks: hidden states without sequence parallelism
R, replicated   same values, but each rank has a part of the gradient, which must be summed over the ranks
V, varying      each rank has its own part of the values: split weights, hidden states under sequence parallelism
P, partial      each rank has a summand of the values
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.config.flags import config_from_settings
from tests.megatron_train.models import MODELS

pytest.importorskip("spmd_types")

CASES = [(family, sequence_parallel) for family in MODELS for sequence_parallel in (False, True)]


@contextmanager
def typing_rules() -> Iterator[None]:
    """Give megatron-core's collectives and linear layers their types, as autograd functions, for the checker."""
    import spmd_types as spmd
    from megatron.core.tensor_parallel import layers, mappings
    from spmd_types import I, P, R, V, assert_type

    from megatron_train.model import rotary, swiglu

    def copy(outputs: Any, *, input_: Any, group: Any) -> None:
        assert_type(input_, {group: I})
        assert_type(outputs, {group: R})

    def reduce(outputs: Any, *, input_: Any, group: Any) -> None:
        assert_type(input_, {group: P})
        assert_type(outputs, {group: I})

    def gather_sequence(outputs: Any, *, input_: Any, group: Any, tensor_parallel_output_grad: bool) -> None:
        assert_type(input_, {group: V})
        assert_type(outputs, {group: R if tensor_parallel_output_grad else I})

    def scatter_sequence(outputs: Any, *, input_: Any, group: Any) -> None:
        assert_type(input_, {group: P})
        assert_type(outputs, {group: V})

    def gather_width(outputs: Any, *, input_: Any, group: Any) -> None:
        """With fewer key heads than ranks, each rank then slices its own heads, which the checker cannot see."""
        assert_type(input_, {group: V})
        assert_type(outputs, {group: V})

    def linear(
        outputs: Any,
        *,
        input: Any,
        weight: Any,
        bias: Any,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        tp_group: Any,
    ) -> None:
        """Column-parallel layers sum the gradient of their input, row-parallel ones leave the sum to their caller."""
        is_column = allreduce_dgrad or sequence_parallel
        assert_type(input, {tp_group: I if allreduce_dgrad else V})
        for own in (weight, bias):
            if own is not None:
                assert_type(own, {tp_group: V})
        assert_type(outputs, {tp_group: V if is_column else P})

    rules: dict[Any, Any] = {
        mappings._CopyToModelParallelRegion: copy,
        mappings._ReduceFromModelParallelRegion: reduce,
        mappings._GatherFromSequenceParallelRegion: gather_sequence,
        mappings._ReduceScatterToSequenceParallelRegion: scatter_sequence,
        mappings._AllGatherFromTensorParallelRegion: gather_width,
        layers.LinearWithGradAccumulationAndAsyncCommunication: linear,
    }
    for each in (swiglu._GatedSilu, rotary._Rotation):
        spmd.register_local_autograd_function(each)
    with pytest.MonkeyPatch.context() as patch:
        for function, rule in rules.items():
            patch.setattr(function, "spmd_typecheck", staticmethod(rule), raising=False)
        yield


def type_of_output(family: str, sequence_parallel: bool) -> str:
    """Return the type of the first layer's output, as one letter, or the checker's error message."""
    import spmd_types as spmd
    import torch
    from megatron.core import parallel_state

    from megatron_train.model.build import build_model

    settings = {"tensor_model_parallel_size": 2, "sequence_parallel": sequence_parallel}
    (chunk,) = build_model(MODELS[family], config_from_settings(settings, "test"))
    group = parallel_state.get_tensor_model_parallel_group()
    angles = chunk.rotary_pos_emb(32)
    hidden = torch.randn(16 if sequence_parallel else 32, 2, 64, requires_grad=True)
    try:
        with spmd.checker.typecheck():
            for name, parameter in chunk.decoder.named_parameters():
                spmd.assert_type(parameter, {group: type_of_parameter(name, parameter)})
            spmd.assert_type(angles, {group: spmd.R})
            spmd.assert_type(hidden, {group: spmd.V if sequence_parallel else spmd.I})
            output, _ = chunk.decoder.layers[0](hidden, None, rotary_pos_emb=angles)
            return spmd.get_axis_local_type(output, group).name
    except spmd.SpmdTypeError as error:
        return str(error)


def type_of_parameter(name: str, parameter: Any) -> Any:
    """Return the type that the parameter must have, by what happens to its gradient after the backward pass.

    megatron-core sums the gradients of query and key norms, known by name, and of those marked `sequence_parallel`.
    """
    from spmd_types import I, R, V

    if getattr(parameter, "tensor_model_parallel", False):
        return V
    return (
        R
        if getattr(parameter, "sequence_parallel", False) or {"q_layernorm", "k_layernorm"} & set(name.split("."))
        else I
    )


def check_layers() -> tuple[dict[tuple[str, bool], str], dict[str, str]]:
    """Return the types of all cases, and the messages for three faults."""
    import spmd_types.checker  # noqa: F401  # the package does not import it
    from megatron.core.tensor_parallel import layers

    from megatron_train.model import build, norm
    from megatron_train.parallel.distributed import init_distributed

    init_distributed(config_from_settings({"tensor_model_parallel_size": 2}, "test").parallel, seed=1)
    faults = {}
    with typing_rules():
        found = {case: type_of_output(*case) for case in CASES}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(norm, "setattr", lambda *_: None, raising=False)
            patch.setattr(build, "parameters_without_gradient_sum", lambda _: [])
            faults["norm without the sum"] = type_of_output("llama", sequence_parallel=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers, "reduce_from_tensor_model_parallel_region", lambda hidden, group: hidden)
            faults["row without the sum"] = type_of_output("llama", sequence_parallel=False)
        with pytest.MonkeyPatch.context() as patch:
            never = property(lambda layer: False, lambda layer, value: None)
            patch.setattr(layers.ColumnParallelLinear, "allreduce_dgrad", never, raising=False)
            faults["column without the sum"] = type_of_output("llama", sequence_parallel=False)
    return found, faults


@pytest.fixture(scope="module")
def checked() -> tuple[dict[tuple[str, bool], str], dict[str, str]]:
    return run_distributed(check_layers, 2)[0]


@pytest.mark.parametrize(("family", "sequence_parallel"), CASES)
def test_a_layer_keeps_the_type_of_its_hidden_states(family: str, sequence_parallel: bool, checked: Any) -> None:
    assert checked[0][family, sequence_parallel] == ("V" if sequence_parallel else "I")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("norm without the sum", "Invariant type on axis TENSOR_MODEL_PARALLEL_GROUP cannot mix with other types"),
        ("row without the sum", "Partial type on axis TENSOR_MODEL_PARALLEL_GROUP cannot propagate through non-linear"),
        ("column without the sum", "SPMD type mismatch on axis TENSOR_MODEL_PARALLEL_GROUP"),
    ],
)
def test_a_missing_sum_over_ranks_is_a_type_error(fault: str, words: str, checked: Any) -> None:
    assert words in checked[1][fault]
