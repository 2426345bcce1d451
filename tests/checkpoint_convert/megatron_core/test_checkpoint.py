"""megatron-core reads and writes our checkpoints in real processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.megatron_core.checkpoint import CheckpointReader, CheckpointWriter
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo, same_bits
from megatron_train.certificate.local_ranks import run_distributed
from tests.checkpoint_convert.tiny_models import save_tiny_model

LAYOUTS = {
    "llama_gqa": ((2, 1), (1, 2)),
    "neox_parallel": ((2, 1),),
    "falcon_7b": ((1, 2),),  # tied
}
"""(tensor, pipeline) parallel sizes. Each layout loads the checkpoint that the one before saved."""


def pass_through_layouts(root: str) -> None:
    """On each of 2 ranks, load release/ in the first layout, save, load the result in the second, and so on."""
    from megatron_train.checkpoint.save_load import Contents, load_weights, save_checkpoint
    from megatron_train.checkpoint.train_state import TrainState
    from megatron_train.config.flags import config_from_settings
    from megatron_train.config.model_config import ModelConfig
    from megatron_train.model.build import build_model
    from megatron_train.parallel.distributed import init_distributed

    for kind, layouts in LAYOUTS.items():
        folder = Path(root) / kind / "release"
        model = ModelConfig.load(folder / "model_config.yaml")
        for step, (tp, pp) in enumerate(layouts, 1):
            layout = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp}
            settings = {"train_iters": 1, "seq_length": 16, "save": str(Path(root) / kind), **layout}
            config = config_from_settings(settings, "test")
            ranks = init_distributed(config.parallel, seed=step)
            chunks = build_model(model, config)
            load_weights(folder, chunks)
            folder = save_checkpoint(Contents(config, model, TrainState(iteration=step), chunks, None, ranks))


def test_weights_pass_through_any_layout_bitwise(tmp_path: Path) -> None:
    for kind in LAYOUTS:
        save_tiny_model(kind, tmp_path / f"{kind}_hf", num_hidden_layers=4)
        from_hf(tmp_path / f"{kind}_hf", tmp_path / kind, ImportOptions())

    run_distributed(pass_through_layouts, 2, str(tmp_path))

    for kind in LAYOUTS:
        to_hf(tmp_path / kind, tmp_path / f"{kind}_out", ExportOptions())
        before, after = (load_file(tmp_path / f"{kind}_{side}" / "model.safetensors") for side in ("hf", "out"))
        assert before.keys() == after.keys()
        assert [name for name in before if not same_bits(before[name], after[name])] == [], kind


def write(writer: CheckpointWriter, name: str, tensor: torch.Tensor) -> None:
    writer.write(name, TensorInfo(tuple(tensor.shape), tensor.dtype), tensor.split(1))


def test_writer_and_reader_stack_layers(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path)
    big = torch.arange(12.0)
    write(writer, "embedding.word_embeddings.weight", big[:4].view(2, 2))  # a view of a larger storage
    for layer in (1, 0):
        write(writer, f"decoder.layers.{layer}.mlp.linear_fc2.weight", big[4 + layer : 6 + layer].view(1, 2))
    writer.close({"iteration": 0})

    reader = CheckpointReader(tmp_path)

    assert reader.infos["decoder.layers.1.mlp.linear_fc2.weight"] == ((1, 2), torch.float32)
    assert reader.read("embedding.word_embeddings.weight").tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert reader.read("decoder.layers.0.mlp.linear_fc2.weight").tolist() == [[4.0, 5.0]]
    assert reader.read("decoder.layers.1.mlp.linear_fc2.weight").tolist() == [[5.0, 6.0]]
    assert (tmp_path / "__0_0.distcp").stat().st_size < 10_000


def test_torch_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path)
    for layer in range(3):
        write(writer, f"decoder.layers.{layer}.mlp.linear_fc2.weight", torch.full((2, 4), layer, dtype=torch.bfloat16))
    writer.close({"iteration": 0})

    state = {"decoder.layers.mlp.linear_fc2.weight": torch.zeros(3, 2, 4, dtype=torch.bfloat16)}
    torch.distributed.checkpoint.load(state, checkpoint_id=str(tmp_path), no_dist=True)

    assert state["decoder.layers.mlp.linear_fc2.weight"].sum((1, 2)).tolist() == [0.0, 8.0, 16.0]


def test_writer_refuses_a_missing_layer_and_unequal_ones(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path)
    write(writer, "decoder.layers.0.mlp.linear_fc2.weight", torch.ones(1, 2))
    write(writer, "decoder.layers.2.mlp.linear_fc2.weight", torch.ones(1, 2))

    with pytest.raises(ConvertError, match=r"linear_fc2\.weight is .*, but other layers are \(1, 2\) torch\.float32"):
        write(writer, "decoder.layers.1.mlp.linear_fc2.weight", torch.ones(2, 1))
    with pytest.raises(ConvertError, match=r"\[0, 2\]"):
        writer.close({"iteration": 0})


def test_reader_refuses_code_in_metadata(converted: Callable[[str], Path], tmp_path: Path) -> None:
    for path in (converted("llama_gqa") / "release").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / ".metadata").write_bytes(pickle.dumps(print))

    with pytest.raises(ConvertError, match=r"\.metadata: refused: .*builtins\.print"):
        CheckpointReader(tmp_path)


def test_reader_names_a_truncated_file(converted: Callable[[str], Path], tmp_path: Path) -> None:
    for path in (converted("llama_gqa") / "release").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    data = (tmp_path / "__0_0.distcp").read_bytes()
    (tmp_path / "__0_0.distcp").write_bytes(data[: len(data) // 2])

    with pytest.raises(ConvertError, match=r"__0_0\.distcp"):
        CheckpointReader(tmp_path)


def test_reader_explains_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"no \.metadata, so it is not a torch_dist checkpoint"):
        CheckpointReader(tmp_path)
