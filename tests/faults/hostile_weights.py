"""Hostile weights: pickles with code in every place where a pickle is read, and safetensors with wrong offsets."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.hostile_data import Case

PLACES = ("common.pt", ".metadata", "__0_0.distcp", "extra.pkl", "rng_state.pt")
"""Files of a checkpoint folder in which a pickle could be read."""


def weight_cases() -> dict[str, dict[str, Case]]:
    """Return the cases by kind and name."""
    return {"pickles": pickle_cases(), "safetensors": safetensors_cases()}


def code(module: str, name: str, argument: str, protocol: int) -> bytes:
    """Return a pickle that calls module.name(argument), written opcode by opcode."""
    if protocol == 0:
        return f"c{module}\n{name}\n(V{argument}\ntR.".encode()
    if protocol == 1:
        return b"(" + f"i{module}\n{name}\n".encode() + b"."  # INST, without arguments
    if protocol == 2:
        return b"\x80\x02(" + f"c{module}\n{name}\nV{argument}\no.".encode()  # OBJ
    words = [text.encode() for text in (module, name)]
    strings = b"".join(b"\x8c" + bytes([len(word)]) + word for word in words)
    return b"\x80\x04" + strings + b"\x93" + f"(V{argument}\nt\x81.".encode()  # STACK_GLOBAL, NEWOBJ


def payloads() -> dict[str, bytes]:
    """Return pickles that must not run, by name."""
    command = "touch owned"
    found = {
        f"{module}.{name} by protocol {protocol}": code(module, name, command, protocol)
        for protocol in (0, 1, 2, 4)
        for module, name in (("os", "system"), ("posix", "system"), ("subprocess", "getoutput"))
    }
    found["builtins.exec"] = code("builtins", "exec", "open('owned', 'w')", 0)
    found["builtins.eval in an allowed dict"] = b"}V1\n" + code("builtins", "eval", "open('owned','w')", 0)[:-1] + b"s."
    found["getattr of a name with dots"] = code("torch.serialization", "os.system", command, 4)
    found["torch.load"] = code("torch", "load", "owned", 0)
    found["runpy by an extension code"] = b"\x80\x02\x82\x01(Vowned\ntR."
    found["a state that is set"] = b"\x80\x02cshutil\nrmtree\n(V.\ntR}b."
    return found


def torch_zip(pickled: bytes, name: str = "archive/data.pkl") -> bytes:
    """Return a torch.save archive around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def legacy(pickled: bytes) -> bytes:
    """Return the pickle in torch's format without archives: magic number, protocol, system, then the object."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return head + pickled


def pickle_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name, payload in payloads().items():
        for wrapping, wrap in {"bare": bytes, "archive": torch_zip, "legacy": legacy}.items():
            data = wrap(payload)
            for file in ("pytorch_model.bin", "consolidated.00.pth", "mp_rank_00/model_optim_rng.pt"):
                cases[f"{file}: {name}, {wrapping}"] = (foreign(file, data), False)
            for place in PLACES:
                cases[f"checkpoint {place}: {name}, {wrapping}"] = (in_checkpoint(place, data), False)
        cases[f"rng_state.safetensors: {name}"] = (rng_state(payload), False)
        cases[f"a column of a part: {name}"] = (in_part(payload), False)
    tricks = {
        "a second entry of another case": torch_zip(payload) + torch_zip(payload, "archive/DATA.PKL"),
        "an archive after a pickle": pickle.dumps({}, 2) + torch_zip(payload),
        "a pickle before an archive": payload + torch_zip(pickle.dumps({}, 2)),
        "nested 100,000 deep": b"(" * 100_000 + b"l" * 100_000 + b".",
        "a memo of 10^9": b"\x80\x02r\xff\xff\xff\x7f.",
        "a frame of 8 EB": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "a text of 2 GB": b"\x80\x02X\xff\xff\xff\x7f.",
        "bytes of 8 EB": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "tuples that explode when printed": b"\x80\x02)" + b"2\x86" * 60 + b".",
    }
    for name, data in tricks.items():
        for file in ("pytorch_model.bin", "consolidated.00.pth", "mp_rank_00/model_optim_rng.pt"):
            # Readers find an archive by its end, so they do not read the bytes before it.
            cases[f"{file}: {name}"] = (foreign(file, data), name == "a pickle before an archive")
        for place in PLACES[:4]:
            harmless = ("explode" in name or "deep" in name) and place in ("common.pt", "extra.pkl")
            cases[f"checkpoint {place}: {name}"] = (in_checkpoint(place, data), harmless)
    return cases


@cache
def template_folders() -> Path:
    """Write a checkpoint and a Hugging Face folder once. The cases copy and damage them."""
    import atexit
    import tempfile

    from checkpoint_convert.convert import from_hf
    from checkpoint_convert.mapping.options import ImportOptions
    from tests.checkpoint_convert.tiny_models import save_tiny_model

    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    save_tiny_model("llama_gqa", root / "hf")
    from_hf(root / "hf", root / "base", ImportOptions())
    return root


def in_checkpoint(place: str, data: bytes) -> Callable[[Path], str | None]:
    """Return a case that puts a file into a checkpoint, updates SHA256SUMS, and runs every reader of checkpoints."""
    root = template_folders()

    def read(folder: Path) -> str | None:
        from checkpoint_convert.megatron_core.checkpoint import CheckpointReader
        from megatron_train.checkpoint.folder import check_folder
        from pretokenizer.files.checksums import write_sha256sums

        release = folder / "base" / "release"
        shutil.copytree(root / "base", folder / "base")
        (release / place).write_bytes(data)
        write_sha256sums(release)
        refused = 0
        for reader in (check_folder, _read_all(CheckpointReader)):
            try:
                reader(release)
            except ValueError as error:
                assert str(folder) in str(error), error
                refused += 1
        if refused == 2:
            raise ValueError(f"{folder}: refused by both")
        return f"refused by {refused} of 2"

    return read


def _read_all(kind: Any) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        reader = kind(folder)
        for name in reader.infos:
            tensor = reader.read(name)
            getattr(tensor, "sum", lambda: None)()

    return read


def foreign(file: str, data: bytes) -> Callable[[Path], str | None]:
    """Return a case that converts another project's checkpoint with a hostile file in it."""

    def read(folder: Path) -> str | None:
        from checkpoint_convert.huggingface.weights import HfWeights
        from checkpoint_convert.other_formats.megatron_llm_reader import MegatronLlmWeights
        from checkpoint_convert.other_formats.meta import MetaWeights

        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(data)
        (folder / "params.json").write_text(json.dumps({"dim": 8, "n_layers": 1, "n_heads": 1}))
        kinds: dict[str, Any] = {"pytorch_model.bin": HfWeights, "consolidated.00.pth": MetaWeights}
        return str(kinds.get(file, MegatronLlmWeights)(folder))

    return read


def rng_state(data: bytes) -> Callable[[Path], str | None]:
    def read(folder: Path) -> str | None:
        from megatron_train.checkpoint.train_state import load_rng
        from megatron_train.config.parallel_layout import ParallelLayout

        (folder / "rng_state.safetensors").write_bytes(data)
        return str(load_rng(folder, ParallelLayout(1, 1, 1)))

    return read


def in_part(payload: bytes) -> Callable[[Path], str | None]:
    """Return a case with a part of a build whose columns are pickled objects."""

    def read(folder: Path) -> str | None:
        from pretokenizer.tasks.part_files import _COLUMNS, PartHeader, read_part

        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
        column = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload
        with zipfile.ZipFile(folder / "p.npz", "w") as archive:
            for name in _COLUMNS:
                archive.writestr(f"{name}.npy", column)
        (folder / "p.json").write_text(json.dumps(PartHeader().__dict__))
        (folder / "p.tokens").write_bytes(b"")
        return str(read_part(folder / "p", 2))

    return read


# ---- safetensors


def safetensors_cases() -> dict[str, Case]:
    def entry(shape: list[int], begin: int, end: int, kind: str = "F32") -> dict[str, Any]:
        return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}

    headers: dict[str, Any] = {
        "overlapping offsets": {"a": entry([2], 0, 8), "b": entry([2], 4, 12)},
        "the same bytes twice": {"a": entry([2], 0, 8), "b": entry([2], 0, 8)},
        "a gap": {"a": entry([2], 0, 8), "b": entry([2], 12, 20)},
        "offsets beyond the end": {"a": entry([2**20], 0, 2**22)},
        "offsets of 2^62": {"a": entry([2], 2**62, 2**62 + 8)},
        "offsets that go back": {"a": entry([2], 8, 0)},
        "negative offsets": {"a": entry([2], -8, 0)},
        "a shape that overflows": {"a": entry([2**32, 2**32], 0, 16)},
        "a shape that is not its bytes": {"a": entry([3], 0, 16)},
        "a negative shape": {"a": entry([-4], 0, 16)},
        "a type that is none": {"a": entry([4], 0, 16, "EVIL")},
        "no offsets": {"a": {"dtype": "F32", "shape": [4]}},
        "a list": [1, 2],
        "metadata that is a list": {"__metadata__": [1], "a": entry([4], 0, 16)},
        "too few bytes named": {"a": entry([1], 0, 4)},
    }
    cases: dict[str, Case] = {
        name: (safetensors_of(json.dumps(header).encode()), False) for name, header in headers.items()
    }
    cases["a header of 2^63 bytes"] = (safetensors_of(b"{}", length=2**63), False)
    cases["a header longer than the file"] = (safetensors_of(b"{}", length=10_000), False)
    cases["a header nested 100,000 deep"] = (safetensors_of(b'{"a":' * 100_000), False)
    twice = b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},'
    twice += b' "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    cases["a name given twice"] = (safetensors_of(twice), False)
    cases["an index that leads out"] = (index_leading_out, False)
    cases["nothing"] = (safetensors_of(b"", data=b"", length=0), False)
    return cases


def safetensors_of(header: bytes, data: bytes = bytes(16), length: int | None = None) -> Callable[[Path], str | None]:
    def read(folder: Path) -> str | None:
        from checkpoint_convert.huggingface.weights import HfWeights

        size = len(header) if length is None else length
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + header + data)
        weights = HfWeights(folder)
        return str({name: weights.read(name).shape for name in weights.infos})

    return read


def index_leading_out(folder: Path) -> str | None:
    from checkpoint_convert.huggingface.weights import HfWeights

    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    return str(HfWeights(folder))
