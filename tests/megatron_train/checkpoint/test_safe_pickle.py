"""A checkpoint that would run code is refused before the code runs. torch.load would run each evil file here."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_train.checkpoint.safe_pickle import Inert, UnsafePickleError, inert_load, scan_archive, scan_pickles


class Evil:
    """Creates the file `ran` when unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.ran}",)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def scan(blob: bytes) -> None:
    scan_archive(io.BytesIO(blob), "blob")


def test_what_a_checkpoint_holds_passes() -> None:
    scan(saved({"step": 3, "nested": [1.5, None, "x", (True, 2**70)], "ordered": collections.OrderedDict(a=1)}))
    scan(pickle.dumps({"plain": 1}))
    scan(saved([torch.zeros(3, dtype=torch.bfloat16), torch.ones(2, 2), torch.Size([2]), torch.float32, {1, 2}]))


def test_allowed_classes_are_replaced_too() -> None:
    loaded = inert_load(pickle.dumps(collections.OrderedDict(a=1)), "x")
    assert isinstance(loaded, Inert)
    assert loaded.entries == [("a", 1)]


# Hand-written opcodes: the same call in every form that pickle has.
IMPORTS = {
    "GLOBAL": b"cos\nsystem\n(VCOMMAND\ntR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x07COMMAND\x85R.",
    "memo": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94000h\x00h\x01\x93\x94h\x02\x8c\x07COMMAND\x85R.",
    "memo overwritten": b"\x80\x02X\x04\x00\x00\x00safeq\x00X\x02\x00\x00\x00osq\x00X\x06\x00\x00\x00systemq\x0100"
    b"0h\x00h\x01\x93X\x07\x00\x00\x00COMMAND\x85R.",
    "INST": b"(VCOMMAND\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nVCOMMAND\no.",
    "in a nested tuple": b"(VCOMMAND\nV1\n(cos\nsystem\nttt.",
    "dotted name": b"\x80\x04\x8c\x05torch\x8c\x18serialization.os.system\x93\x8c\x07COMMAND\x85R.",
    "builtins": b"cbuiltins\neval\n(VCOMMAND\ntR.",
    "getattr": b"cbuiltins\ngetattr\n(cos\nenviron\nVclear\ntR)R.",
}


@pytest.mark.parametrize("name", IMPORTS)
def test_every_way_to_import_is_refused(name: str, tmp_path: Path) -> None:
    ran = tmp_path / "r"
    command = f"touch {ran}".encode()
    blob = IMPORTS[name].replace(b"\x07COMMAND", bytes([len(command)]) + command).replace(b"COMMAND", command)
    with pytest.raises(UnsafePickleError, match="blob: "):
        inert_load(blob, "blob")
    assert not ran.exists()


def test_the_message_names_the_import(tmp_path: Path) -> None:
    with pytest.raises(UnsafePickleError) as error:
        inert_load(pickle.dumps(Evil(tmp_path / "r")), "common.pt")
    assert str(error.value).startswith(f"common.pt: refused: it imports {os.system.__module__}.system, ")


@pytest.mark.parametrize("blob", [b"", b"no pickle", b"\x80\x04]", b"(" * 100_000, pickle.dumps([1] * 99)[:-5]])
def test_a_damaged_pickle_is_refused(blob: bytes) -> None:
    with pytest.raises(UnsafePickleError, match="x: not a readable pickle"):
        inert_load(blob, "x")


def test_pickles_in_an_archive_are_scanned(tmp_path: Path) -> None:
    with pytest.raises(UnsafePickleError, match=r"blob:.*/data.pkl: refused"):
        scan(saved({"a": Evil(tmp_path / "r")}))


def test_torchs_old_format_of_several_pickles_is_refused(tmp_path: Path) -> None:
    """The first pickle of such a file is a number. The evil one is the fourth."""
    with pytest.raises(UnsafePickleError, match="blob: refused: data follows its first pickle"):
        scan(saved({"a": Evil(tmp_path / "r")}, _use_new_zipfile_serialization=False))


def test_an_old_file_that_ends_like_an_archive_is_refused(tmp_path: Path) -> None:
    """torch chooses the format by the first bytes, Python's zipfile by the last."""
    blob = saved({"a": Evil(tmp_path / "r")}, _use_new_zipfile_serialization=False) + saved({"a": 1})
    with pytest.raises(UnsafePickleError, match="blob: "):
        scan(blob)


def test_a_pickle_whose_name_is_in_capitals_is_scanned(tmp_path: Path) -> None:
    """torch's archive reader ignores the case of entry names."""
    renamed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"a": Evil(tmp_path / "r")}))) as old, zipfile.ZipFile(renamed, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename.replace("data.pkl", "DATA.PKL"), old.read(entry))
    with pytest.raises(UnsafePickleError, match=r"DATA.PKL: refused"):
        scan(renamed.getvalue())


def test_an_archive_with_a_second_directory_is_refused(tmp_path: Path) -> None:
    """zipfile reads the directory before the end record. torch reads the one at the record's offset."""
    evil, good = saved({"a": Evil(tmp_path / "r")}), saved({"a": 1})
    with pytest.raises(UnsafePickleError, match="blob: "):
        scan(evil + good)


def test_a_compiled_program_is_refused(tmp_path: Path) -> None:
    """torch.load runs an archive with constants.pkl in the TorchScript interpreter."""
    program = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), program)
    with pytest.raises(UnsafePickleError, match=r"blob:.*pkl: refused"):
        scan(program.getvalue())


def write_distributed(folder: Path, value: Any) -> None:
    """Write a torch.distributed checkpoint with one entry, in megatron-core's format."""
    from torch.distributed.checkpoint import metadata as names
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    blob = saved(value)
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(b"other entry" + blob)
    index = names.MetadataIndex("some.key")
    info = _StorageInfo("__0_0.distcp", 11, len(blob))
    described: Any = {"some.key": names.BytesStorageMetadata()}
    metadata = names.Metadata(described, planner_data=None, storage_data={index: info})
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_scan_pickles_accepts_a_sound_folder(tmp_path: Path) -> None:
    write_distributed(tmp_path / "c", torch.zeros(3))
    torch.save({"iteration": 3}, tmp_path / "c" / "common.pt")
    (tmp_path / "c" / "train_config.yaml").write_text("lr: 1\n")
    scan_pickles(tmp_path / "c")


def test_scan_pickles_scans_distcp_files(tmp_path: Path) -> None:
    write_distributed(tmp_path / "c", [Evil(tmp_path / "r")])
    with pytest.raises(UnsafePickleError, match=r"__0_0.distcp\[some.key\]:.*refused"):
        scan_pickles(tmp_path / "c")
    assert not (tmp_path / "r").exists()


def test_scan_pickles_scans_metadata_and_common(tmp_path: Path) -> None:
    for name in (".metadata", "common.pt"):
        folder = tmp_path / name.strip(".")
        write_distributed(folder, torch.zeros(1))
        (folder / name).write_bytes(pickle.dumps(Evil(tmp_path / "r")))
        with pytest.raises(UnsafePickleError, match="refused"):
            scan_pickles(folder)
    assert not (tmp_path / "r").exists()


def test_scan_pickles_refuses_metadata_that_points_elsewhere(tmp_path: Path) -> None:
    write_distributed(tmp_path / "c", torch.zeros(1))
    metadata = (tmp_path / "c" / ".metadata").read_bytes()
    (tmp_path / "x_0.distcp").write_bytes(b"")
    (tmp_path / "c" / ".metadata").write_bytes(metadata.replace(b"__0_0.distcp", b"../x_0.distc"))
    with pytest.raises(UnsafePickleError, match="which is not a file beside it"):
        scan_pickles(tmp_path / "c")
