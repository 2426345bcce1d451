"""Our models give transformers' logits for the same weights, in every layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from checkpoint_convert.convert import from_hf
from checkpoint_convert.mapping.options import ImportOptions
from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.config.flags import config_from_settings
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.model.build import (
    build_model,
    parameters_without_gradient_sum,
    transformer_config,
)
from megatron_train.parallel.distributed import init_distributed
from tests.checkpoint_convert.tiny_models import TRAINABLE, save_tiny_model
from tests.megatron_train.models import LLAMA, MODELS

LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"tensor_model_parallel_size": 2},
    "pp2": {"pipeline_model_parallel_size": 2},
    "tp2-pp2-sp": {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "sequence_parallel": True},
}
SPLIT = [kind for kind in TRAINABLE if "rope" not in kind and kind not in {"llama_head_dim", "falcon_7b_untied"}]
"""The kinds of model that differ in how ranks split them. The other kinds differ only in arithmetic."""


def tokens() -> torch.Tensor:
    return torch.randint(0, 400, (2, 32), generator=torch.Generator().manual_seed(3))


def hugging_face_logits(folder: Path) -> torch.Tensor:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(tokens()).logits.float()


def own_logits(checkpoint: Path, settings: dict[str, Any]) -> torch.Tensor | None:
    """Return our logits [b, s, vocabulary] if this rank holds the last stage, else None."""
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    from megatron_train.checkpoint.save_load import load_weights
    from tests.megatron_train.runs import enter_layout

    config = config_from_settings(settings, "test")
    enter_layout(config)
    model = ModelConfig.load(checkpoint / "model_config.yaml")
    (chunk,) = build_model(model, config)
    load_weights(checkpoint, [chunk])
    chunk.eval()

    def forward_step(iterator: Any, part: Any) -> tuple[torch.Tensor, Any]:
        ids = next(iterator)
        output = part(ids, torch.arange(ids.shape[1]).expand(ids.shape), None)
        return output, lambda logits: (logits.sum(), torch.tensor(1, dtype=torch.int), {"logits": logits})

    with torch.no_grad():
        outputs = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter([tokens()]),
            model=chunk,
            num_microbatches=1,
            seq_length=32,
            micro_batch_size=2,
            forward_only=True,
        )
    if not outputs:
        return None
    return gather_from_tensor_model_parallel_region(outputs[0]["logits"])[..., : model.vocab_size]


def largest_differences(folder: Path) -> dict[str, float]:
    """Return the largest difference of any logit on any rank of the last stage, by kind and layout."""
    import torch.distributed as dist

    differences = {}
    for name, layout in LAYOUTS.items():
        for kind in SPLIT:
            logits = own_logits(folder / kind / "release", layout)
            expected = torch.load(folder / f"{kind}.pt")
            own = 0.0 if logits is None else float((logits - expected).abs().max())
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, own)
            differences[f"{kind}-{name}"] = max(everyone)
    return differences


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    for kind in TRAINABLE:
        save_tiny_model(kind, folder / "hf" / kind)
        from_hf(folder / "hf" / kind, folder / kind, ImportOptions())
        torch.save(hugging_face_logits(folder / "hf" / kind), folder / f"{kind}.pt")
    return folder


@pytest.fixture(scope="module")
def differences(folder: Path) -> dict[str, float]:
    return run_distributed(largest_differences, 4, folder)[0]


@pytest.mark.parametrize("kind", TRAINABLE)
def test_logits_are_transformers_logits_in_one_process(kind: str, folder: Path, single_process: None) -> None:
    logits, expected = own_logits(folder / kind / "release", {}), torch.load(folder / f"{kind}.pt")
    assert logits is not None
    assert float(expected.abs().max()) > 0.1
    assert float((logits - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", SPLIT)
def test_logits_are_transformers_logits_in_every_layout(kind: str, layout: str, differences: dict[str, float]) -> None:
    assert differences[f"{kind}-{layout}"] < 1e-5


@pytest.mark.parametrize(
    ("method", "asked", "stages", "expected"),
    [
        ("uniform", 3, 1, 2),
        ("uniform", 4, 1, 4),
        ("uniform", 9, 1, 4),
        ("uniform", 3, 2, 2),
        ("uniform", 1, 4, 1),
        ("block", 3, 1, 3),
    ],
)
def test_uniform_recomputation_takes_a_number_that_divides_the_stage(
    method: str, asked: int, stages: int, expected: int
) -> None:
    settings = {
        "recompute_granularity": "full",
        "recompute_method": method,
        "recompute_num_layers": asked,
        "pipeline_model_parallel_size": stages,
    }
    assert transformer_config(LLAMA, config_from_settings(settings, "test")).recompute_num_layers == expected


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"hidden_dropout": 0.2}, 0.2),
        ({"hidden_dropout": 0.2, "lima_dropout": True}, 0.0),
        ({"hidden_dropout": 0.2, "embedding_dropout": 0.0}, 0.0),
        ({"hidden_dropout": 0.2, "lima_dropout": True, "embedding_dropout": 0.1}, 0.1),
    ],
)
def test_embedding_dropout_is_hidden_dropout_unless_lima(settings: dict[str, Any], rate: float) -> None:
    assert transformer_config(LLAMA, config_from_settings(settings, "test")).hidden_dropout == rate


def test_interleaved_stages_overlap_their_messages() -> None:
    settings = {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}
    config = transformer_config(LLAMA, config_from_settings(settings, "test"))
    assert (config.batch_p2p_comm, config.overlap_p2p_comm) == (False, True)


def test_a_recomputation_group_divides_the_layers_of_its_own_stage() -> None:
    settings = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 2}
    settings |= {"pipeline_model_parallel_size": 2, "decoder_first_pipeline_num_layers": 1}
    config = config_from_settings(settings, "test")
    assert [transformer_config(LLAMA, config, stage).recompute_num_layers for stage in (0, 1)] == [1, 1]
    five = replace(LLAMA, num_layers=5)
    assert [transformer_config(five, config, stage).recompute_num_layers for stage in (0, 1)] == [1, 2]


@pytest.mark.parametrize(
    ("pp", "vpp", "first", "last"),
    [
        (2, 1, 3, None),
        (2, 1, None, 3),
        (2, 1, 5, 7),
        (2, 2, 4, 8),
        (4, 1, 3, None),
        (4, 1, None, 3),
        (4, 1, 4, 2),
        (4, 2, 2, 2),
        (4, 2, 6, None),
        (4, 3, None, 3),
    ],
)
def test_stages_have_the_layers_that_megatron_core_gives_them(
    pp: int, vpp: int, first: int | None, last: int | None
) -> None:
    from megatron.core.transformer.transformer_block import get_num_layers_to_build
    from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

    layout = ParallelLayout(world_size=pp, pp=pp, vpp=vpp, first_layers=first, last_layers=last)
    assert layout.problems() + layout.split_problems(12) == []
    settings = {
        "pipeline_model_parallel_size": pp,
        "virtual_pipeline_model_parallel_size": vpp if vpp > 1 else None,
        "decoder_first_pipeline_num_layers": first,
        "decoder_last_pipeline_num_layers": last,
    }
    core = transformer_config(replace(LLAMA, num_layers=12), config_from_settings(settings, "test"))
    seen: list[int] = []
    for chunk in range(vpp):
        for stage in range(pp):
            vp_stage = chunk if vpp > 1 else None
            start = get_transformer_layer_offset(core, vp_stage=vp_stage, pp_rank=stage)
            found = range(start, start + get_num_layers_to_build(core, vp_stage=vp_stage, pp_rank=stage))
            assert layout.layers_of_stage(12, stage, chunk) == found
            seen += found
    assert seen == list(range(12))


MARKED: dict[str, tuple[ModelConfig, dict[str, Any]]] = {
    "norms and SwiGLU": (LLAMA, {}),
    "sequence parallelism": (LLAMA, {"sequence_parallel": True}),
    "biases and tied embeddings": (
        replace(MODELS["neox_parallel"], share_embeddings_and_output_weights=True),
        {"sequence_parallel": True},
    ),
    "one key/value head with a bias": (replace(MODELS["qwen2"], num_query_groups=1), {}),
}
"""Models and settings with every kind of parameter that megatron-core marks, for two tensor-parallel ranks."""


def marks_with_and_without_initialisation() -> list[tuple[Any, Any]]:
    """Return for each of MARKED the marks of its parameters, with random weights and for a checkpoint."""
    from tests.megatron_train.runs import enter_layout

    found = []
    for model, settings in MARKED.values():
        config = config_from_settings({"tensor_model_parallel_size": 2} | settings, "test")
        enter_layout(config)
        found.append((marks(build_model(model, config)), marks(build_model(model, config, random_weights=False))))
    return found


def marks(chunks: list[Any]) -> dict[str, dict[str, Any]]:
    """Return the attributes that megatron-core has set on each parameter, by name."""
    kinds = (bool, int, str, float)
    return {
        name: {key: value for key, value in vars(parameter).items() if isinstance(value, kinds)}
        for chunk in chunks
        for name, parameter in chunk.named_parameters()
    }


def test_a_model_for_a_checkpoint_has_the_marks_of_one_with_random_weights() -> None:
    """The gradient norm, gradient sums and checkpoints depend on them. Only initialising a weight sets some."""
    for rank in run_distributed(marks_with_and_without_initialisation, 2):
        for name, (random, empty) in zip(MARKED, rank, strict=True):
            assert random == empty, name
            split = {key: random[f"decoder.layers.0.{key}.weight"] for key in ("mlp.linear_fc1", "mlp.linear_fc2")}
            assert [split[key]["partition_dim"] for key in split] == [0, 1], name
            assert all(each["tensor_model_parallel"] for each in split.values()), name
            norm = random["decoder.final_layernorm.weight"]
            assert norm.get("sequence_parallel", False) == MARKED[name][1].get("sequence_parallel", False), name


def build_with_an_unmarked_norm() -> tuple[list[str], str]:
    """Build a model under sequence parallelism, then one with a norm whose gradients are not summed over the ranks."""
    from megatron_train.model import norm
    from tests.megatron_train.runs import enter_layout

    config = config_from_settings({"tensor_model_parallel_size": 2, "sequence_parallel": True}, "test")
    enter_layout(config)
    (chunk,) = build_model(LLAMA, config)
    sound = parameters_without_gradient_sum(chunk)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(norm, "setattr", lambda *_: None, raising=False)
        with pytest.raises(AssertionError) as error:
            build_model(LLAMA, config)
    return sound, str(error.value)


def test_sequence_parallelism_refuses_a_parameter_whose_gradient_nobody_sums() -> None:
    for sound, message in run_distributed(build_with_an_unmarked_norm, 2):
        assert sound == []
        assert "decoder.layers.0.input_layernorm.weight" in message


def test_a_model_for_a_checkpoint_draws_no_random_numbers(single_process: None) -> None:
    config = config_from_settings({}, "test")
    init_distributed(config.parallel, seed=1)
    states = [torch.get_rng_state(), *get_cuda_rng_tracker().get_states().values()]
    before = [state.clone() for state in states]
    build_model(LLAMA, config, random_weights=False)
    after = [torch.get_rng_state(), *get_cuda_rng_tracker().get_states().values()]
    assert all(map(torch.equal, before, after))
    build_model(LLAMA, config)
    assert not all(map(torch.equal, before, [torch.get_rng_state(), *get_cuda_rng_tracker().get_states().values()]))
