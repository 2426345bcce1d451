"""Megatron-LLM's files are read in the order of their model chunks, and ranks of different saves are refused."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_convert.other_formats.megatron_llm_reader import MegatronLlmWeights
from checkpoint_convert.tensors.tensor import ConvertError

NORM = "layers.{}.input_layernorm.weight"


def save_rank(folder: Path, rank: str, num_layers: int, models: dict[str, Any]) -> None:
    state = {"args": Namespace(num_layers=num_layers), "checkpoint_version": 3.0, **models}
    (folder / rank).mkdir(parents=True)
    torch.save(state, folder / rank / "model_optim_rng.pt")


def model(encoder: dict[str, torch.Tensor]) -> dict[str, Any]:
    embedding = {"word_embeddings": {"weight": torch.ones(2, 4)}}
    return {"language_model": {"embedding": embedding, "encoder": encoder}}


def save_two_ranks(folder: Path, second: dict[str, torch.Tensor]) -> Path:
    """Save two tensor-parallel ranks with a norm and a matrix. `second` replaces entries of rank 1."""
    encoder = {NORM.format(0): torch.ones(4), "layers.0.mlp.dense_4h_to_h.weight": torch.ones(4, 3)}
    save_rank(folder, "mp_rank_00", 1, {"model": model(encoder)})
    save_rank(folder, "mp_rank_01", 1, {"model": model({**encoder, **second})})
    return folder


def test_twelve_chunks_are_taken_by_number(tmp_path: Path) -> None:
    """With interleaved pipeline stages, chunk c of stage s holds layer 2c + s."""
    for stage in range(2):
        chunks = {f"model{c}": model({NORM.format(0): torch.full((4,), 2.0 * c + stage)}) for c in range(12)}
        save_rank(tmp_path, f"mp_rank_00_{stage:03d}", 24, chunks)

    weights = MegatronLlmWeights(tmp_path)

    assert [weights.read(f"encoder.{NORM.format(i)}")[0].item() for i in range(24)] == list(range(24))


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "expected the entry model, or model0, model1 ... without a gap; found neither"),
        ({"model": {}}, "model_optim_rng.pt: model has no tensors under language_model"),
        ({"model": None}, "model_optim_rng.pt: model has no tensors under language_model"),
        ({"model0": model({}), "model2": model({})}, "without a gap; found model0, model2"),
        ({"model": model({NORM.format(0): torch.ones(4)})}, r"model has the layers \[0\]; 2 layers in 1 .* make 2 "),
        (
            {"model": {"language_model": {"encoder": {NORM.format(i): torch.ones(4) for i in range(2)}}}},
            "model_optim_rng.pt: lacks embedding.word_embeddings.weight",
        ),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path: Path, models: dict[str, Any], message: str) -> None:
    save_rank(tmp_path, "mp_rank_00", 2, models)

    with pytest.raises(ConvertError, match=message):
        MegatronLlmWeights(tmp_path)


def test_arguments_without_a_number_of_layers_are_named(tmp_path: Path) -> None:
    save_rank(tmp_path, "mp_rank_00", 0, {"model": model({})})

    with pytest.raises(ConvertError, match=r"model_optim_rng\.pt: num_layers .*None"):
        MegatronLlmWeights(tmp_path)


def test_an_absurd_number_of_layers_is_refused(tmp_path: Path) -> None:
    save_rank(tmp_path, "mp_rank_00", 10**30, {"model": model({NORM.format(0): torch.ones(4)})})

    with pytest.raises(ConvertError, match=r"model has the layers \[0\]; 10{30} layers"):
        MegatronLlmWeights(tmp_path)


def test_ranks_with_other_numbers_of_chunks_are_refused(tmp_path: Path) -> None:
    save_rank(tmp_path, "mp_rank_00", 1, {"model": model({NORM.format(0): torch.ones(4)})})
    save_rank(tmp_path, "mp_rank_01", 1, {"model0": model({}), "model1": model({})})

    with pytest.raises(ConvertError, match=r"2 model chunks, .* 1"):
        MegatronLlmWeights(tmp_path)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"layers.0.extra.weight": torch.ones(1)}, r"only .* has encoder\.layers\.0\.extra\.weight"),
        ({NORM.format(0): torch.full((4,), 5.0)}, r"mp_rank_01.*: its encoder\.layers\.0\.input_layernorm\.weight"),
        ({"layers.0.mlp.dense_4h_to_h.weight": torch.ones(5, 3)}, r"its encoder\.layers\.0\.mlp\.dense_4h_to_h"),
        ({"layers.0.mlp.dense_4h_to_h.weight": torch.ones(4, 3).half()}, r"its encoder\.layers\.0\.mlp\.dense_4h_to_h"),
    ],
)
def test_ranks_of_two_saves_are_refused(tmp_path: Path, second: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        MegatronLlmWeights(save_two_ranks(tmp_path, second))


def test_ranks_of_one_save_are_joined(tmp_path: Path) -> None:
    weights = MegatronLlmWeights(save_two_ranks(tmp_path, {}))

    assert weights.infos["encoder.layers.0.mlp.dense_4h_to_h.weight"].shape == (4, 6)
    assert weights.infos["embedding.word_embeddings.weight"].shape == (4, 4)


def test_norms_that_drifted_apart_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_two_ranks(tmp_path, {NORM.format(0): torch.full((4,), 1.005)})

    assert MegatronLlmWeights(folder).read(f"encoder.{NORM.format(0)}").tolist() == [1.0] * 4
    assert capsys.readouterr().err.endswith(
        "the other ranks' encoder.layers.0.input_layernorm.weight differ by up to 0.01; rank 0's are used\n"
    )
