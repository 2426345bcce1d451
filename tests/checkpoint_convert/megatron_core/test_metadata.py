"""torch reads the `.metadata` that we write, and we read torch's."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from checkpoint_convert.megatron_core.metadata import Chunk, StoredTensor, read_metadata, read_object, write_metadata
from checkpoint_convert.tensors.tensor import ConvertError

STORED = StoredTensor((2, 3), torch.bfloat16, [Chunk((0, 0), (1, 3), "a", 0, 9), Chunk((1, 0), (1, 3), "b", 64, 7)])


def test_torch_reads_what_is_written(tmp_path: Path) -> None:
    write_metadata(tmp_path, {"decoder.weight": STORED})

    found = dcp.FileSystemReader(tmp_path).read_metadata()

    tensor = found.state_dict_metadata["decoder.weight"]
    assert isinstance(tensor, dcp.metadata.TensorStorageMetadata)
    assert (tensor.size, tensor.properties.dtype) == (torch.Size([2, 3]), torch.bfloat16)
    assert [(chunk.offsets, chunk.sizes) for chunk in tensor.chunks] == [((0, 0), (1, 3)), ((1, 0), (1, 3))]
    place = found.storage_data[dcp.metadata.MetadataIndex("decoder.weight", (1, 0))]
    assert (place.relative_path, place.offset, place.length) == ("b", 64, 7)


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    state = {"decoder.weight": torch.arange(6.0).view(2, 3), "note": "bytes"}
    dcp.save(state, checkpoint_id=tmp_path, no_dist=True)
    metadata = dcp.FileSystemReader(tmp_path).read_metadata()
    metadata.storage_meta = None  # holds a Path, which megatron-core's writer leaves out
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))

    found = read_metadata(tmp_path)

    assert list(found) == ["decoder.weight"]
    assert read_object(tmp_path, "note") == "bytes"
    assert read_object(tmp_path, "common_state/shard_0_1") is None
    shape, dtype, (chunk,) = found["decoder.weight"]
    assert (shape, dtype, chunk.offsets, chunk.sizes) == ((2, 3), torch.float32, (0, 0), (2, 3))
    with (tmp_path / chunk.file).open("rb") as file:
        file.seek(chunk.start)
        assert file.read(4) == b"PK\3\4"


def test_damage_is_named(tmp_path: Path) -> None:
    write_metadata(tmp_path, {"decoder.weight": STORED})
    metadata = dcp.FileSystemReader(tmp_path).read_metadata()
    metadata.storage_data.popitem()
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ConvertError, match=r"\.metadata: .*decoder\.weight"):
        read_metadata(tmp_path)

    (tmp_path / ".metadata").write_bytes(pickle.dumps({"no": "metadata"}))
    with pytest.raises(ConvertError, match=r"\.metadata: not the metadata of a checkpoint"):
        read_metadata(tmp_path)

    (tmp_path / ".metadata").write_bytes(pickle.dumps(print))
    with pytest.raises(ConvertError, match=r"\.metadata: .*builtins\.print"):
        read_metadata(tmp_path)
