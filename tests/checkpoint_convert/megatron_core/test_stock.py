"""Stock megatron-core loads our checkpoints with its strictest checks, and we import the checkpoints that it saves."""

from __future__ import annotations

import enum
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from checkpoint_convert.__main__ import main
from checkpoint_convert.convert import to_hf
from checkpoint_convert.families.family import differing_fields
from checkpoint_convert.mapping.options import ExportOptions
from checkpoint_convert.tensors.tensor import same_bits
from checkpoint_convert.verify.logits import draw_tokens, hugging_face_logits
from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.checkpoint.folder import CheckpointError, find_checkpoint
from megatron_train.config.model_config import ModelConfig
from tests.checkpoint_convert.megatron_core.stock_model import load_strictly, save_stock, stock_logits, stock_model

pytestmark = pytest.mark.slow
KINDS = ("llama_gqa", "llama_tied")


def logits_of(folder: str, tokens: list[list[int]], tp: int, pp: int) -> torch.Tensor | None:
    """On each rank, build the stock model, load the checkpoint, and return the logits on the last stage."""
    model = ModelConfig.load(Path(folder) / "model_config.yaml")
    chunk = stock_model(model, tp, pp)
    load_strictly(chunk, Path(folder))
    return stock_logits(chunk, tokens)


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_stock_megatron_core_loads_a_release_strictly(
    kind: str, tp: int, pp: int, hf_folder: Callable[[str], Path], converted: Callable[[str], Path]
) -> None:
    release = converted(kind) / "release"
    tokens = draw_tokens(ModelConfig.load(release / "model_config.yaml"), 400)
    expected = hugging_face_logits(hf_folder(kind), tokens)

    found = run_distributed(logits_of, tp * pp, str(release), tokens, tp, pp)

    last = [logits for logits in found if logits is not None]
    assert len(last) == tp
    assert (last[0][..., :400] - expected).abs().max() < 1e-5


class Mode(enum.Enum):
    """A class that only the saving program has."""

    FAST = 1


def save_in_stock_layout(release: str, target: str, as_object: bool) -> None:
    """On each of 4 ranks, load a release into the stock model at TP 2 x PP 2, and save it as Megatron-LM does.

    `as_object` is that of save_stock.
    """
    model = ModelConfig.load(Path(release) / "model_config.yaml")
    chunk = stock_model(model, 2, 2)
    load_strictly(chunk, Path(release))
    arguments = Namespace(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.query_groups,
        group_query_attention=True,
        seq_length=model.max_position_embeddings,
        norm_epsilon=model.layernorm_epsilon,
        swiglu=True,
        position_embedding_type="rope",
        vocab_size=400,
        mode=Mode.FAST,
        params_dtype=torch.bfloat16,
        save=Path(target),
    )
    folder = Path(target) / "iter_0000005"
    if torch.distributed.get_rank() == 0:
        folder.mkdir(parents=True)
        (Path(target) / "latest_checkpointed_iteration.txt").write_text("5")
    torch.distributed.barrier()
    save_stock(chunk, folder, arguments, as_object)


@pytest.mark.parametrize(("kind", "as_object"), zip(KINDS, (False, True), strict=True))
def test_a_checkpoint_of_stock_megatron_core_comes_back_bitwise(
    kind: str, as_object: bool, hf_folder: Callable[[str], Path], converted: Callable[[str], Path], tmp_path: Path
) -> None:
    run_distributed(save_in_stock_layout, 4, str(converted(kind) / "release"), str(tmp_path / "stock"), as_object)
    with pytest.raises(CheckpointError, match=r"checkpoint_convert from-megatron-core .*stock"):
        find_checkpoint(tmp_path / "stock")

    assert main(["from-megatron-core", str(tmp_path / "stock"), str(tmp_path / "ckpt")]) == 0
    to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions())

    ours = ModelConfig.load(tmp_path / "ckpt" / "release" / "model_config.yaml")
    assert differing_fields(ours, ModelConfig.load(converted(kind) / "release" / "model_config.yaml")) == []
    before, after = load_file(hf_folder(kind) / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(same_bits(tensor, after[name]) for name, tensor in before.items())
