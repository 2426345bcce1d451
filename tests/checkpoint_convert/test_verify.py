"""verify finds what differs, and says so when nothing does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_convert.convert import from_hf
from checkpoint_convert.logits import LogitDifference, difference
from checkpoint_convert.plan import ImportOptions
from checkpoint_convert.tensors import ConvertError
from checkpoint_convert.verify import equal_after_rounding, verify
from tests.checkpoint_convert.tiny_models import MODELS


@pytest.mark.parametrize("kind", MODELS)
def test_verify_compares_logits_of_both_libraries(
    kind: str, hf_folder: Callable[[str], Path], converted: Callable[[str], Path]
) -> None:
    outcome = verify(hf_folder(kind), converted(kind))

    assert outcome.different == []
    assert outcome.rows == 400
    assert outcome.logits is not None
    assert outcome.logits.largest <= 1e-5
    assert outcome.logits.num_tokens == 64
    assert outcome.is_equal


def test_verify_names_one_flipped_bit(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(hf_folder("llama_gqa"), folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj.weight"
    tensors[name].view(torch.int32)[3, 5] ^= 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    outcome = verify(folder, converted("llama_gqa"))

    assert outcome.different == [name]
    assert not outcome.is_equal
    assert outcome.lines()[0] == f"verify: 1 of 21 tensors DIFFER: {name}"


def test_verify_rounds_the_wider_side(hf_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from_hf(hf_folder("llama_gqa"), tmp_path / "ckpt", ImportOptions(dtype=torch.bfloat16))

    outcome = verify(hf_folder("llama_gqa"), tmp_path / "ckpt")

    assert outcome.different == []
    assert outcome.logits is not None
    assert outcome.logits.is_rounded
    assert 1e-5 < outcome.logits.largest < 0.2
    assert 0 < outcome.logits.divergence < 1e-3
    assert outcome.is_equal


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_either_way_is_no_difference(source: torch.dtype, target: torch.dtype) -> None:
    theirs = torch.tensor([[0.1, -2.7], [1 / 3, 1e-6], [5.0, 6.0]]).to(source)
    ours = theirs.to(target)

    assert equal_after_rounding([ours[:1], ours[1:]], theirs)
    assert equal_after_rounding([theirs], ours)
    assert not equal_after_rounding([ours[:1], ours[1:]], theirs * 2)
    assert not equal_after_rounding([ours], theirs[:2])


def test_verify_names_another_architecture(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(hf_folder("llama_gqa"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))

    with pytest.raises(ConvertError, match=r"another architecture .*: layernorm_epsilon \(1e-05 here, 1e-06 there\)"):
        verify(folder, converted("llama_gqa"))


def test_difference_measures_logits_and_divergence() -> None:
    theirs = torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
    ours = torch.tensor([[[0.0, 0.0, 9.0], [0.0, 1.0, 9.0]]])

    found = difference(theirs, ours)

    # KL of (0.119203, 0.880797) from (0.268941, 0.731059), over two tokens of which the first agrees
    assert found.largest == 1.0
    assert found.scale == 2.0
    assert found.num_tokens == 2
    assert found.divergence == pytest.approx((0.119203 * -0.813684 + 0.880797 * 0.186334) / 2, rel=1e-4)
    assert not found.is_close


def test_logits_are_close_relative_to_large_ones() -> None:
    assert LogitDifference(largest=9e-6, scale=3.0, divergence=0.0, num_tokens=1).is_close
    assert not LogitDifference(largest=2e-5, scale=3.0, divergence=0.0, num_tokens=1).is_close
    assert LogitDifference(largest=2e-5, scale=30.0, divergence=0.0, num_tokens=1).is_close
