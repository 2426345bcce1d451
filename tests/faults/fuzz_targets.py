"""Readers of untrusted bytes to fuzz. Each may raise ValueError or OSError and nothing else."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ALLOWED = (ValueError, OSError)


@contextmanager
def file_of(data: bytes) -> Iterator[Path]:
    """Return the path of an in-memory file with these bytes."""
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, data)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def read_json(data: bytes) -> None:
    """Read records from JSON lines or a list and convert them with the source `messages`."""
    from pretokenizer.records.reader import FileSpan, read_records
    from pretokenizer.sources import make_source
    from pretokenizer.sources.source import WRONG_FORM

    source = make_source("messages", {})
    with file_of(data) as path:
        for span in (FileSpan(str(path)), FileSpan(str(path), len(data) // 2, len(data))):
            for _, record in read_records(span, lambda row, place, reason: None):
                with suppress(WRONG_FORM):
                    source.convert(record, "a")


def read_compressed(data: bytes) -> None:
    """Read records inside gzip, zstandard and tar."""
    from pretokenizer.records.reader import read_records

    with file_of(data) as path:
        for _ in read_records(path, lambda row, place, reason: None):
            pass


def read_shard(data: bytes) -> None:
    """Read a shard whose index is `data` and whose .bin has 64 bytes."""
    import numpy as np

    from pretokenizer.files import shard

    with file_of(data) as index, file_of(bytes(range(64))) as flat:
        reader = shard.ShardReader.__new__(shard.ShardReader)
        reader.prefix = "fuzz"
        reader.sizes, reader.pointers, reader.document_index, reader.dtype = shard._read_index(str(index))
        reader._bin = shard._map_file(str(flat))
        shard._check_pointers("fuzz", reader.sizes, reader.pointers, reader.dtype.itemsize, 64)
        total = sum(int(np.asarray(item, dtype=np.int64).sum()) for item in reader)
        assert total is not None
        assert reader.is_contiguous in (True, False)


def read_pickle(data: bytes) -> None:
    """Read a pickle or torch.save archive with the allow-list scan and with the converter's reader."""
    from checkpoint_convert.tensors.mapped_file import MappedFile
    from checkpoint_convert.tensors.torch_archive import read_archive
    from megatron_train.checkpoint.safe_pickle import inert_load, scan_archive

    for read in (lambda: inert_load(data, "fuzz"), lambda: scan_archive(io.BytesIO(data), "fuzz")):
        try:
            read()
        except ValueError as error:
            assert "fuzz" in str(error)
    with file_of(data) as path:
        read_archive(MappedFile(path))


def read_safetensors(data: bytes) -> None:
    """Read a safetensors file: the library checks the header, and we map the tensors."""
    from checkpoint_convert.huggingface.weights import _open_safetensors

    with file_of(data) as path:
        read, infos = _open_safetensors(path)
        for name, info in infos.items():
            assert tuple(read(name).shape) == info.shape


def read_yaml(data: bytes) -> None:
    """Read a configuration of the trainer and of the pretokenizer."""
    from megatron_train.config.model_config import ModelConfig
    from pretokenizer.config.yaml_config import load_yaml

    with file_of(data) as path:
        load_yaml(path)
        ModelConfig.load(path)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "json": read_json,
    "compressed": read_compressed,
    "shard": read_shard,
    "pickle": read_pickle,
    "safetensors": read_safetensors,
    "yaml": read_yaml,
}


def seeds(target: str) -> list[bytes]:
    """Return valid inputs of a target, from which the fuzzer starts."""
    from tests.faults import hostile_data, hostile_weights

    row = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]}\n'
    if target == "json":
        return [row * 3, b"[" + row + b"," + row + b"]", b'{"conversations": [{"from": "human", "value": "q"}]}\n']
    if target == "compressed":
        import gzip

        import zstandard

        tar = hostile_data.tar_with("a.jsonl", row)
        return [gzip.compress(row), zstandard.compress(row), tar, gzip.compress(tar), row]
    if target == "shard":
        return [hostile_data.index_bytes([3, 2], [0, 6], [0, 1, 2]), hostile_data.index_bytes([4], [0], [0], code=4)]
    if target == "pickle":
        import torch

        buffers = [io.BytesIO() for _ in range(2)]
        torch.save({"a": torch.zeros(2, 3), "b": [1, "x", None]}, buffers[0])
        torch.save(torch.ones(4, dtype=torch.bfloat16), buffers[1])
        return [b.getvalue() for b in buffers] + [hostile_weights.code("os", "system", "true", p) for p in (0, 2, 4)]
    if target == "safetensors":
        import torch
        from safetensors.torch import save

        return [save({"a": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)})]
    return [b"lr: 1e-3\nsave: &a x\ntrain_data_path: [a, *a]\n", b"family: llama\nnum_layers: 2\nhidden_size: 64\n"]
