"""`verify` finds every difference between a checkpoint and a folder, and reports when there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.tensors.tensor import ConvertError
from checkpoint_convert.verify.logits import LogitDifference, difference
from checkpoint_convert.verify.verify import equal_after_rounding, is_rounded, verify, verify_weights
from tests.checkpoint_convert.tiny_models import TRAINABLE


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAINABLE)
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


def test_logits_of_an_untrainable_model_are_not_compared(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path]
) -> None:
    outcome = verify(hf_folder("llama_rope_dynamic"), converted("llama_rope_dynamic"))

    assert (outcome.different, outcome.logits, outcome.is_equal) == ([], None, True)
    assert outcome.no_logits == "the trainer does not compute rope_scaling_type dynamic"


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight", "lm_head.weight"]
)
def test_verify_names_one_flipped_bit(
    name: str, hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(hf_folder("llama_gqa"), folder)
    tensors = load_file(folder / "model.safetensors")
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
    assert (
        outcome.lines()[0]
        == "verify: all 21 tensors are equal, 21 of them after rounding (400 vocabulary rows compared)"
    )
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


def test_infinity_is_no_rounded_number() -> None:
    theirs = torch.tensor([[1e6, 1.0]])

    assert not equal_after_rounding([theirs.half()], theirs)
    assert not equal_after_rounding([theirs], theirs.half())


def test_only_what_the_narrower_side_lacks_is_rounded() -> None:
    numbers = torch.tensor([[1.5], [0.1]])

    assert is_rounded([numbers], numbers.bfloat16())
    assert not is_rounded([numbers[:1]], numbers[:1].bfloat16())
    assert not is_rounded([numbers.half()], numbers.half().float())


def with_tensors(source: Path, folder: Path, **changes: torch.Tensor) -> Path:
    """Return a copy of a single-file folder with some tensors replaced. `__` in a name stands for a dot."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_verify_counts_the_tensors_that_were_rounded_unasked(
    hf_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(hf_folder("llama_gqa") / "model.safetensors")
    narrow = {name.replace(".", "__"): t.bfloat16() for name, t in tensors.items() if "norm" not in name}
    folder = with_tensors(hf_folder("llama_gqa"), tmp_path / "hf", **narrow)
    from_hf(folder, tmp_path / "ckpt", ImportOptions())
    from_hf(folder, tmp_path / "wide", ImportOptions(dtype=torch.float32))

    assert verify_weights(folder, tmp_path / "ckpt").num_rounded == 5
    assert verify_weights(folder, tmp_path / "wide").num_rounded == 0
    assert (
        "warning: 5 tensors are rounded to bfloat16, the dtype of most tensors (--dtype fp32 keeps every bit): "
        "model.layers.0.input_layernorm.weight, model.layers.0.post_attention_layernorm.weight, "
        "model.layers.1.input_layernorm.weight, model.layers.1.post_attention_layernorm.weight, model.norm.weight\n"
    ) in capsys.readouterr().err


def test_verify_refuses_a_folder_whose_rows_were_cut(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors = load_file(hf_folder("llama_gqa") / "model.safetensors")
    head = tensors["lm_head.weight"][:3].clone()
    folder = with_tensors(hf_folder("llama_gqa"), tmp_path / "hf", lm_head__weight=head)

    with pytest.raises(ConvertError, match=r"hf: lm_head\.weight is \[3, 32\], .* \[400, 32\]"):
        verify(folder, converted("llama_gqa"))


def test_verify_takes_a_tied_head_only_as_a_copy(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = with_tensors(hf_folder("llama_tied"), tmp_path / "hf", lm_head__weight=torch.ones(400, 32))

    with pytest.raises(ConvertError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        verify(folder, converted("llama_tied"))


def test_verify_asks_only_for_tokens_that_both_sides_have(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    to_hf(converted("llama_gqa"), tmp_path / "hf", ExportOptions(vocab_size="100"))

    outcome = verify(tmp_path / "hf", converted("llama_gqa"))

    assert outcome.is_equal
    assert outcome.lines()[0] == (
        "verify: all 21 tensors are bitwise equal (100 vocabulary rows compared), but 300 rows of the checkpoint are"
        " not in the folder"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"hf/generation_config\.json: expected a JSON object"),
        ('{"max_new_tokens": "x"}', "hf: transformers cannot load it: TypeError"),
    ],
)
def test_verify_names_what_transformers_cannot_load(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path, text: str, message: str
) -> None:
    folder = with_tensors(hf_folder("llama_gqa"), tmp_path / "hf")
    (folder / "generation_config.json").write_text(text)

    with pytest.raises(ConvertError, match=message):
        verify(folder, converted("llama_gqa"))


def test_verify_names_another_architecture(
    hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(hf_folder("llama_gqa"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))

    with pytest.raises(ConvertError, match=r"config\.json: .*: layernorm_epsilon \(1e-06, checkpoint 1e-05\)"):
        verify(folder, converted("llama_gqa"))


def test_difference_measures_logits_and_divergence() -> None:
    theirs = torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
    ours = torch.tensor([[[0.0, 0.0, 9.0], [0.0, 1.0, 9.0]]])

    found = difference(theirs, ours)

    # half the KL divergence of (0.119203, 0.880797) from (0.268941, 0.731059): two tokens, and the first one agrees
    assert found.largest == 1.0
    assert found.scale == 2.0
    assert found.num_tokens == 2
    assert found.divergence == pytest.approx((0.119203 * -0.813684 + 0.880797 * 0.186334) / 2, rel=1e-4)
    assert not found.is_close


def test_logits_are_close_relative_to_large_ones() -> None:
    assert LogitDifference(largest=9e-6, scale=3.0, divergence=0.0, num_tokens=1).is_close
    assert not LogitDifference(largest=2e-5, scale=3.0, divergence=0.0, num_tokens=1).is_close
    assert LogitDifference(largest=0.5, scale=3.0, divergence=0.0, num_tokens=1, is_rounded=True).is_close
    for number in (float("inf"), float("nan")):
        assert not LogitDifference(largest=number, scale=3.0, divergence=0.0, num_tokens=1, is_rounded=True).is_close
        assert not LogitDifference(largest=0.5, scale=3.0, divergence=number, num_tokens=1, is_rounded=True).is_close
    assert LogitDifference(largest=2e-5, scale=30.0, divergence=0.0, num_tokens=1).is_close
