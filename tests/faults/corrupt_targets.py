"""One small folder of each kind that the project reads, to be damaged, and the functions that read it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.kill_targets import SAMPLE_MODEL

Parts = tuple[str, Path, Callable[[Path], "list[str] | None"], Callable[[Path], bool]]


def make_readers(root: Path, only: str = "") -> Iterator[Parts]:
    """Return (name, folder, reader, files under a checksum) of every target, or of those with `only` in their name."""
    makers = {
        "shards": shard_readers,
        "parts": part_readers,
        "records": record_readers,
        "tokenizers": tokenizer_readers,
        "weights": checkpoint_readers,
    }
    for name, make in makers.items():
        if only in name:
            yield from make(root / name)


def everything(path: Path) -> bool:
    return True


def nothing(path: Path) -> bool:
    return False


def _config(root: Path, **keys: Any) -> Any:
    from pretokenizer.config.settings import make_config

    write_small_data(root / "data")
    merged = {
        "datasets": ["gsm8k", "alpaca"],
        "vocab_file": str(SAMPLE_MODEL),
        "data_dir": str(root / "data"),
        "output_dir": str(root / "out"),
        "filename_prefix": "toy",
        **keys,
    }
    return make_config(merged, "test")[0]


def write_small_data(data: Path) -> None:
    """Write two data sets of 40 records each."""
    rows = {
        "gsm8k/train": [{"question": f"What is {i}?", "answer": f"It is {i * i}."} for i in range(40)],
        "alpaca/train": [{"instruction": f"Say {i}", "input": "", "output": f"{i} {i}"} for i in range(40)],
    }
    for name, records in rows.items():
        path = data / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


def shard_readers(root: Path) -> Iterator[Parts]:
    import torch.distributed as dist

    from megatron_train.config.settings import Data
    from megatron_train.data.document_set import DocumentSet
    from megatron_train.preflight import check_shards, load_manifest
    from pretokenizer.build import build
    from pretokenizer.config.settings import RunOptions
    from pretokenizer.output.check import check_folder
    from pretokenizer.output.inspect_documents import inspect_path

    config = _config(root)
    build(config, RunOptions())
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    def train_on(folder: Path) -> None:
        data = Data(train_data_path=(str(folder / "toy-train"),))
        load_manifest(data)
        check_shards(data)
        documents = DocumentSet([str(folder / "toy-train")])
        for index in range(len(documents.lengths)):
            documents.piece(index, 0, int(documents.lengths[index]))

    def is_trained_on(path: Path) -> bool:
        return path.suffix in (".bin", ".idx") and path.name.startswith("toy-train-")

    def inspect(folder: Path) -> None:
        for _ in inspect_path(folder / "toy-train", 3, 0, True):
            pass

    out = config.output_folder
    yield "a folder of shards, by check", out, lambda f: check_folder(f)[0], lambda p: p.name != "manifest.json"
    yield "a folder of shards, by the trainer", out, train_on, is_trained_on
    yield "a folder of shards, by inspect", out, inspect, nothing


def part_readers(root: Path) -> Iterator[Parts]:
    import shutil

    from pretokenizer.config.settings import RunOptions
    from pretokenizer.merge import build_part, merge

    config = _config(root)
    folders = [build_part(config, RunOptions(part=i, num_parts=2)) for i in range(2)]

    def join(folder: Path) -> None:
        try:
            merge(folders, root / "joined")
        finally:
            for name in ("joined", "joined.merging"):
                shutil.rmtree(root / name, ignore_errors=True)

    yield "part folders, by merge", folders[0].parent, join, everything


def record_readers(root: Path) -> Iterator[Parts]:
    import pyarrow
    import pyarrow.parquet
    import zstandard

    from pretokenizer.records.file_names import has_record_suffix
    from pretokenizer.records.reader import read_records
    from tests.pretokenizer.records.test_reader import tar_of

    rows = [{"question": f"What is {i}?", "answer": f"It is {i * i}."} for i in range(60)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    contents = {
        "a.jsonl": lines,
        "b.json": json.dumps(rows).encode(),
        "c.jsonl.gz": gzip.compress(lines),
        "d.jsonl.zst": zstandard.ZstdCompressor(write_checksum=True).compress(lines),
        "e.json": tar_of("a.jsonl", lines),
    }
    root.mkdir()
    for name, data in contents.items():
        (root / name).write_bytes(data)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "f.parquet", write_page_checksum=True)

    def read(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if has_record_suffix(path.name):
                found = [record for _, record in read_records(path)]
                assert found == rows or path.suffix not in (".gz", ".zst"), f"{path}: other rows, and its sum agrees"
        if len(list(folder.iterdir())) < len(contents) + 1:
            raise ValueError(f"{folder}: a file is missing")  # the plan of a build checks this

    yield "files of records", root, read, nothing


def tokenizer_readers(root: Path) -> Iterator[Parts]:
    import shutil

    import tokenizers

    from pretokenizer.tokenizer.load import load_tokenizer, load_tokenizer_folder

    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the cat sat on the mat and the dog sat"], trainer)
    for name in ("plain", "kept"):
        (root / name).mkdir(parents=True)
        backend.save(str(root / name / "tokenizer.json"))
        shutil.copyfile(SAMPLE_MODEL, root / name / "sample.model")

    def load(folder: Path) -> None:
        for name in ("tokenizer.json", "sample.model"):
            tokenizer = load_tokenizer(folder / name, ("<|im_start|>",))
            tokenizer.encode("the cat <|im_start|> sat")

    for kind, name in (("json", "tokenizer.json"), ("model", "sample.model")):
        load_tokenizer(root / "kept" / name, ("<|im_start|>",)).save(root / f"folder_{kind}", "chatml")
    yield "tokenizer.model and tokenizer.json", root / "plain", load, nothing
    for kind in ("json", "model"):

        def load_folder(folder: Path) -> None:
            load_tokenizer_folder(folder)

        yield f"a tokenizer folder ({kind})", root / f"folder_{kind}", load_folder, nothing


def checkpoint_readers(root: Path) -> Iterator[Parts]:
    os.environ["OMP_NUM_THREADS"] = "1"
    import shutil

    from checkpoint_convert.convert import from_hf, to_hf
    from checkpoint_convert.huggingface.weights import HfWeights
    from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
    from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
    from megatron_train.checkpoint.folder import check_folder
    from megatron_train.config.model_config import ModelConfig
    from tests.checkpoint_convert.tiny_models import save_tiny_model

    save_tiny_model("llama_gqa", root / "first")
    shutil.copyfile(SAMPLE_MODEL, root / "first" / "tokenizer.model")
    from_hf(root / "first", root / "base", ImportOptions())
    to_hf(root / "base", root / "hf", ExportOptions(max_shard_bytes=60_000))

    def read_checkpoint(folder: Path) -> None:
        ModelConfig.load(folder / "model_config.yaml")
        reader = CheckpointReader(folder)
        for name in reader.infos:
            reader.read(name).sum()

    def read_weights(folder: Path) -> None:
        weights = HfWeights(folder)
        for name in weights.infos:
            weights.read(name).sum()

    def convert(folder: Path) -> None:
        try:
            from_hf(folder, root / "again", ImportOptions())
        finally:
            shutil.rmtree(root / "again", ignore_errors=True)

    def export(folder: Path) -> None:
        try:
            to_hf(folder.parent, root / "exported", ExportOptions())
        finally:
            shutil.rmtree(root / "exported", ignore_errors=True)

    release = root / "base" / "release"
    yield "a checkpoint, by its sums", release, lambda f: check_folder(f), everything
    yield "a checkpoint, by to-hf", release, export, everything
    yield "a checkpoint, its tensors alone", release, read_checkpoint, nothing
    yield "a Hugging Face folder, by from-hf", root / "hf", convert, lambda p: p.suffix == ".safetensors"
    yield "a Hugging Face folder, its tensors alone", root / "hf", read_weights, nothing
