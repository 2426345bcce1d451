"""torch.save files are read without running any of their code."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import pytest
import torch

from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError
from checkpoint_convert.tensors.torch_archive import read_archive
from megatron_train.checkpoint.safe_pickle import Inert


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("__import__('pathlib').Path('attacked').touch()",))


def test_read_archive_gives_what_torch_load_gives(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    state = {
        "weight": base,
        "transposed": base.t(),
        "part": base[1:3, 2:],
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": [1, {"two": (3.0, None, True)}],
        "size": torch.Size([2, 3]),
    }
    torch.save(state, tmp_path / "state.pt")

    found = read_archive(MappedFile(tmp_path / "state.pt"))

    for name in ("weight", "transposed", "part", "half", "parameter"):
        assert torch.equal(found[name], state[name].detach()), name  # type: ignore[attr-defined]
    assert found["half"].dtype == torch.bfloat16
    assert found["nested"] == [1, {"two": (3.0, None, True)}]
    assert found["size"] == (2, 3)


def test_read_archive_finds_an_archive_inside_a_file(tmp_path: Path) -> None:
    path = tmp_path / "many"
    with path.open("wb") as file:
        file.write(b"odd")
        start = file.tell()
        torch.save(torch.tensor([1.0, 2.0, 3.0]), file)
        length = file.tell() - start
        file.write(b"rest")

    assert read_archive(MappedFile(path), start, length).tolist() == [1.0, 2.0, 3.0]


def test_read_archive_refuses_code_and_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Attack()}, "bad.bin")

    with pytest.raises(ConvertError, match=r"bad\.bin.*__builtin__\.eval"):
        read_archive(MappedFile(Path("bad.bin")))
    assert not Path("attacked").exists()


def test_read_archive_keeps_listed_classes_inert(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(num_layers=4)}, tmp_path / "state.pt")
    mapped = MappedFile(tmp_path / "state.pt")

    with pytest.raises(ConvertError, match=r"argparse\.Namespace"):
        read_archive(mapped)
    arguments = read_archive(mapped, kept=[("argparse", "Namespace")])["args"]

    assert isinstance(arguments, Inert)
    assert arguments.state == {"num_layers": 4}


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_read_archive_names_a_truncated_file(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "short.bin"
    torch.save({"weight": torch.zeros(1000)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])

    with pytest.raises(ConvertError, match=r"short\.bin: not a complete torch\.save archive"):
        read_archive(MappedFile(path))


def test_read_archive_refuses_a_bare_pickle(tmp_path: Path) -> None:
    (tmp_path / "old.bin").write_bytes(pickle.dumps({"weight": 1}))

    with pytest.raises(ConvertError, match=r"old\.bin: not a complete torch\.save archive"):
        read_archive(MappedFile(tmp_path / "old.bin"))


def test_read_archive_reads_torchs_older_format(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    state = {"weight": base, "transposed": base.t(), "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "n": 3}
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)

    found = read_archive(MappedFile(tmp_path / "old.bin"))

    assert found["n"] == 3
    for name in ("weight", "transposed", "half"):
        assert torch.equal(found[name], state[name]), name  # type: ignore[arg-type]
    data = (tmp_path / "old.bin").read_bytes()
    (tmp_path / "short.bin").write_bytes(data[:-8])
    with pytest.raises(ConvertError, match=r"short\.bin"):
        read_archive(MappedFile(tmp_path / "short.bin"))


def test_the_older_format_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Attack()}, "bad.bin", _use_new_zipfile_serialization=False)

    with pytest.raises(ConvertError, match=r"bad\.bin.*__builtin__\.eval"):
        read_archive(MappedFile(Path("bad.bin")))
    assert not Path("attacked").exists()
