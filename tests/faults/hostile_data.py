"""Hostile archives, JSON, YAML, shards, chat templates and tokenizers for the pretokenizer."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from tests.faults.corrupt_targets import _config
from tests.faults.kill_targets import SAMPLE_MODEL

Case = tuple[Callable[[Path], str | None], bool]
"""(function that writes files in a folder and reads them, whether they may be read instead of refused)."""
ROW = json.dumps({"question": "q", "answer": "a"}).encode() + b"\n"


def data_cases() -> dict[str, dict[str, Case]]:
    """Return the cases by kind and name."""
    return {
        "archives": archive_cases(),
        "JSON": json_cases(),
        "YAML": yaml_cases(),
        "shards": shard_cases(),
        "templates": template_cases(),
        "tokenizers": tokenizer_cases(),
    }


def records_of(name: str, data: bytes | Callable[[], bytes]) -> Callable[[Path], str | None]:
    """Return a case that writes `data` and reads it as records. A function as `data` is called when the case runs."""

    def read(folder: Path) -> str | None:
        from pretokenizer.records.reader import read_records

        (folder / name).write_bytes(data() if callable(data) else data)
        return str(sum(1 for _ in read_records(folder / name)))

    return read


def counted(name: str, data: bytes, bad: int, good: int) -> Callable[[Path], str | None]:
    """Return a case that writes `data`, reads it, and expects `good` good and `bad` bad records."""

    def read(folder: Path) -> str | None:
        from pretokenizer.records.reader import read_records

        (folder / name).write_bytes(data)
        found: list[str] = []
        rows = sum(1 for _ in read_records(folder / name, lambda row, place, reason: found.append(place)))
        assert (len(found), rows) == (bad, good), (found, rows)
        assert all(name in place for place in found)
        return None

    return read


def built(name: str, data: bytes, documents: int, max_bad: float = 0.9) -> Callable[[Path], str | None]:
    """Return a case that builds shards from one gsm8k file and expects a number of documents."""

    def read(folder: Path) -> str | None:
        from pretokenizer.build import build
        from pretokenizer.config.settings import RunOptions

        config = _config(folder, datasets=["gsm8k"], filename_prefix="x")
        for path in (folder / "data/gsm8k").iterdir():
            path.unlink()
        (folder / "data/gsm8k" / name).write_bytes(data)
        manifest = build(config, RunOptions(max_bad_fraction=max_bad))
        assert manifest.splits["train"].documents == documents, manifest.splits
        return None

    return read


# ---- archives


def archive_cases() -> dict[str, Case]:
    return {
        "a gzip bomb": (records_of("a.jsonl.gz", lambda: bomb(gzip.compress)), False),
        "a zstd bomb": (records_of("a.jsonl.zst", lambda: bomb(zstandard.compress)), False),
        "a gzip bomb in a tar": (records_of("a.json", lambda: tar_with("a.jsonl.gz", bomb(gzip.compress))), False),
        "a tar in a gzip bomb": (records_of("a.json", zeros_in_tar_in_gzip), False),
        "gzip in gzip in gzip": (records_of("a.jsonl.gz", nested(gzip.compress, 5)), False),
        "tars in tars": (records_of("a.json", nested(lambda data: tar_with("a.json", data), 50)), False),
        "a tar with paths that lead out": (leading_out, True),
        "a tar with links and devices": (with_links, True),
        "a sparse tar member of 8 EB": (records_of("a.json", sparse_tar()), False),
        "a tar header with a negative size": (records_of("a.json", negative_tar()), False),
        "a pax header of 4 GB": (records_of("a.json", huge_pax()), False),
    }


def zeros_in_tar_in_gzip() -> bytes:
    return gzip.compress(tar_with("a.jsonl", bytes(600 << 20)), compresslevel=1)


def bomb(compress: Callable[[bytes], bytes]) -> bytes:
    """Return 1.2 GB of zeros."""
    return compress(bytes(300 << 20)) * 4


def nested(wrap: Callable[[bytes], bytes], depth: int) -> bytes:
    data = ROW
    for _ in range(depth):
        data = wrap(data)
    return data


def tar_with(name: str, data: bytes, **fields: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for key, value in fields.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def leading_out(folder: Path) -> str | None:
    """Return an archive whose names lead out of its folder. The reader must write nothing there."""
    from pretokenizer.records.reader import read_records

    outside = folder / "outside"
    outside.mkdir()
    for number, name in enumerate((f"{outside}/a.jsonl", "../outside/a.jsonl", "../../etc/a.jsonl")):
        path = folder / f"{number}.json"
        path.write_bytes(tar_with(name, ROW))
        assert len(list(read_records(path))) == 1
    assert list(outside.iterdir()) == []
    return None


def with_links(folder: Path) -> str | None:
    """Return an archive with links and devices, which the reader must skip."""
    from pretokenizer.records.reader import read_records

    (folder / "secret.jsonl").write_bytes(ROW * 5)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
            info = tarfile.TarInfo("a.jsonl")
            info.type, info.linkname = kind, str(folder / "secret.jsonl")
            archive.addfile(info)
        info = tarfile.TarInfo("b.jsonl")
        info.size = len(ROW)
        archive.addfile(info, io.BytesIO(ROW))
    (folder / "a.json").write_bytes(buffer.getvalue())
    assert len(list(read_records(folder / "a.json"))) == 1
    return None


def sparse_tar() -> bytes:
    """Return a tar in GNU's old sparse format, in which a few bytes stand for 8 EB of zeros."""
    block = bytearray(tar_with("a.jsonl", b"x" * 512, type=tarfile.GNUTYPE_SPARSE)[:512])
    block[386:398] = b"00000000000\0"  # offset of the first piece
    block[398:410] = b"00000001000\0"  # its length
    block[483:495] = b"77777777777\0"  # real size
    block[148:156] = b"        "
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + b"x" * 512 + bytes(1024)


def negative_tar() -> bytes:
    block = bytearray(tar_with("a.jsonl", ROW)[:512])
    block[124:136] = b"\xff" * 12  # base 256, negative
    block[148:156] = b"        "
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + bytes(2048)


def huge_pax() -> bytes:
    block = bytearray(tar_with("PaxHeader", b"", type=tarfile.XHDTYPE)[:512])
    block[124:136] = b"37777777777\0"
    block[148:156] = b"        "
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + b"9999999999 path=x\n" * 1000


# ---- JSON


def json_cases() -> dict[str, Case]:
    deep, digits = b"[" * 100_000 + b"]" * 100_000, b"9" * 1_000_000
    two = ROW + ROW
    cases: dict[str, Case] = {
        "nested 100,000 deep in a line": (counted("a.jsonl", two + b'{"a": ' + deep + b"}\n", 1, 2), True),
        "nested 100,000 deep in a list": (records_of("a.json", b"[{}, " + deep + b"]"), False),
        "objects 100,000 deep": (counted("a.jsonl", two + b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 1, 2), True),
        "a number of a million digits": (counted("a.jsonl", two + b'{"a": ' + digits + b"}\n", 1, 2), True),
        "such a number in a list": (records_of("a.json", b'[{"a": ' + digits + b"}]"), False),
        "an exponent of a million": (records_of("a.jsonl", b'{"a": 1e1000000}\n'), True),
        "half of a surrogate pair": (built("a.jsonl", two + b'{"question": "\\udc00", "answer": "a"}\n', 2), True),
        "NUL in text": (built("a.jsonl", b'{"question": "a\\u0000b", "answer": "a\\u0000"}\n', 1), True),
        "NUL bytes": (counted("a.jsonl", two + b"\0" * 1000 + b"\n" + ROW, 1, 3), True),
        "bytes that are no UTF-8": (counted("a.jsonl", two + b'{"a": "\xff\xfe"}\n', 1, 2), True),
        "a line of 1 GB": (one_line, True),
        "an item of 1 GB in a list": (one_item, False),
        "a million empty lines": (records_of("a.jsonl", b"\n" * 1_000_000), True),
        "a key given a million times": (records_of("a.jsonl", b'{"a": 1' + b', "a": 1' * 1_000_000 + b"}\n"), True),
        "deep trees": (deep_trees, True),
    }
    for name in ("manifest.json", "plan.json", "tokenizer_spec.json", "config.json", "train_state.json"):
        cases[f"{name} nested 100,000 deep"] = (deep_own_file(name, deep), False)
        cases[f"{name} with a number of a million digits"] = (
            deep_own_file(name, b'{"format_version": ' + digits + b"}"),
            False,
        )
    return cases


def one_line(folder: Path) -> str | None:
    """Write a sparse file of zeros without a line end, followed by a record."""
    from pretokenizer.records.reader import read_records

    path = folder / "a.jsonl"
    with path.open("wb") as file:
        file.write(ROW)
        file.truncate(1 << 30)
        file.seek(0, io.SEEK_END)
        file.write(b"\n" + ROW)
    bad: list[str] = []
    good = sum(1 for _ in read_records(path, lambda row, place, reason: bad.append(place + reason)))
    assert good == 2 and len(bad) == 1 and "a.jsonl:2a line of more than 64 MiB" in bad[0], (good, bad)
    return None


def one_item(folder: Path) -> str | None:
    from pretokenizer.records.reader import read_records

    path = folder / "a.json"
    with path.open("wb") as file:
        file.write(b'[{"question": "')
        for _ in range(1024):
            file.write(b"x" * (1 << 20))
        file.write(b'"}]')
    return str(sum(1 for _ in read_records(path)))


def deep_trees(folder: Path) -> str | None:
    """Return message trees that nest as deeply as JSON allows."""
    from pretokenizer.sources import make_source
    from pretokenizer.sources.source import InputRecord

    node: dict[str, Any] = {"text": "A", "role": "assistant", "replies": []}
    for level in range(400):
        node = {"text": "a", "role": ("prompter", "assistant")[level % 2], "replies": [node, dict(node)]}
    tree = {"prompt": {**node, "review_result": True, "lang": "en"}, "tree_state": "ready_for_export"}
    import random

    list(make_source("oasst_export", {}).convert_all([InputRecord(0, 0, "a", tree)], random.Random(1)))
    return None


def deep_own_file(name: str, text: bytes) -> Callable[[Path], str | None]:
    """Return a case that nests one of the project's own JSON files deeply."""

    def read(folder: Path) -> str | None:
        from checkpoint_convert.families.family import read_hf_config
        from megatron_train.checkpoint.train_state import TrainState
        from pretokenizer.files.manifest import DataManifest
        from pretokenizer.tasks.plan_file import read_plan
        from pretokenizer.tokenizer.load import read_tokenizer_spec

        (folder / name).write_bytes(text)
        readers: dict[str, Callable[[Path], Any]] = {
            "manifest.json": DataManifest.load,
            "plan.json": read_plan,
            "tokenizer_spec.json": read_tokenizer_spec,
            "config.json": lambda folder: read_hf_config(folder / "config.json"),
            "train_state.json": TrainState.load,
        }
        return str(readers[name](folder))

    return read


# ---- YAML


def yaml_cases() -> dict[str, Case]:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    texts = {
        "a tag that runs code": "!!python/object/apply:os.system ['touch owned']\n",
        "a tag inside a value": "lr: !!python/object/new:os.system ['touch owned']\n",
        "a tag of a module": "lr: !!python/module:antigravity\n",
        "anchors that explode": laughs,
        "anchors that explode in a known key": laughs.replace("a11:", "train_data_path:") + "lr: *a10\n",
        "an anchor that holds itself": "datasets: &a [*a]\n",
        "a merge that explodes": "x0: &x0 {k0: 1}\n"
        + "".join(f"x{i}: &x{i} {{<<: [*x{i - 1}, *x{i - 1}], k{i}: 1}}\n" for i in range(1, 40)),
        "nested 20,000 deep": "[" * 20_000 + "]" * 20_000,
        "a number of a million digits": "train_iters: " + "9" * 1_000_000,
        "a number in base 60": "train_iters: 1" + ":59" * 100_000,
    }
    cases: dict[str, Case] = {}
    for name, text in texts.items():
        cases[f"{name}, as a training configuration"] = (training_yaml(text), False)
        cases[f"{name}, as a section"] = (section_yaml(text), False)
        cases[f"{name}, as model_config.yaml"] = (model_yaml(text), False)
    return cases


def training_yaml(text: str) -> Callable[[Path], str | None]:
    def read(folder: Path) -> str | None:
        from megatron_train.config.flags import parse

        (folder / "run.yaml").write_text(text)
        return str(parse(["--config", str(folder / "run.yaml")]))[:100]

    return read


def section_yaml(text: str) -> Callable[[Path], str | None]:
    def read(folder: Path) -> str | None:
        from pretokenizer.__main__ import run_command

        whole = text + ("datasets: [gsm8k]\n" if ": " in text else "")
        (folder / "mine.yaml").write_text("mine:\n" + "".join(f"  {line}\n" for line in whole.splitlines()))
        flags = ["--vocab_file", str(SAMPLE_MODEL), "--output_dir", str(folder / "out"), "--filename_prefix", "x"]
        return str(run_command(["build", "--configs", "mine", "--config_dir", str(folder), *flags]))

    return read


def model_yaml(text: str) -> Callable[[Path], str | None]:
    def read(folder: Path) -> str | None:
        from megatron_train.config.model_config import ModelConfig

        (folder / "model_config.yaml").write_text(text)
        return str(ModelConfig.load(folder / "model_config.yaml"))[:100]

    return read


# ---- shards


def index_bytes(
    sizes: list[int],
    pointers: list[int],
    documents: list[int],
    count: int | None = None,
    entries: int | None = None,
    code: int = 8,
) -> bytes:
    """Return an .idx file with the given figures, which may be wrong."""
    header = struct.pack(
        "<9sQBQQ",
        b"MMIDIDX\x00\x00",
        1,
        code,
        len(sizes) if count is None else count,
        len(documents) if entries is None else entries,
    )
    return header + struct.pack(f"<{len(sizes)}i{len(pointers)}q{len(documents)}q", *sizes, *pointers, *documents)


def shard_cases() -> dict[str, Case]:
    good = ([3, 2], [0, 6], [0, 1, 2])
    indexes = {
        "negative sizes": index_bytes([3, -2], [0, 6], [0, 1, 2]),
        "a size beyond the end": index_bytes([3, 2**31 - 1], [0, 6], [0, 1, 2]),
        "pointers beyond the end": index_bytes([3, 2], [0, 2**40], [0, 1, 2]),
        "pointers that overflow": index_bytes([3, 2], [0, 2**63 - 2], [0, 1, 2]),
        "negative pointers": index_bytes([3, 2], [0, -6], [0, 1, 2]),
        "odd pointers": index_bytes([3, 1], [0, 7], [0, 1, 2]),
        "a count of 2^63": index_bytes(*good, count=2**63),
        "a count that wraps": index_bytes(*good, count=(2**64 - 8) // 12 + 1),
        "entries of 2^64 - 1": index_bytes(*good, entries=2**64 - 1),
        "documents beyond the items": index_bytes([3, 2], [0, 6], [0, 1, 2**50]),
        "documents that go back": index_bytes([3, 2], [0, 6], [2, 1, 0]),
        "an element type that is none": index_bytes(*good, code=99),
        "elements of float": index_bytes(*good, code=6),
        "sizes whose sum overflows": index_bytes([2**31 - 1] * 5, [0] * 5, [0, 1, 2, 3, 4, 5]),
        "nothing": b"",
    }
    return {name: (shard_of(data), False) for name, data in indexes.items()} | {
        "a good one": (shard_of(index_bytes(*good)), True)
    }


def shard_of(index: bytes) -> Callable[[Path], str | None]:
    def read(folder: Path) -> str | None:
        from pretokenizer.files.shard import ShardReader

        (folder / "x.idx").write_bytes(index)
        np.arange(5, dtype="<u2").tofile(folder / "x.bin")
        return str([item.tolist() for item in ShardReader(folder / "x")])

    return read


# ---- chat templates


def template_cases() -> dict[str, Case]:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    texts = {
        "an endless loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + plain,
        "a range of 10^12": "{% for a in range(10**12) %}x{% endfor %}" + plain,
        "a text of 10^11": "{{ 'x' * 10**11 }}" + plain,
        "a power tower": "{{ 9**(9**9) }}" + plain,
        "a list of 10^10": "{% set a = [0] * 10**10 %}" + plain,
        "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}" + plain,
        "doubling": "{% set n = namespace(s='x') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
        + plain,
        "attributes of classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}" + plain,
        "globals of a function": "{{ raise_exception.__globals__['__builtins__']['open']('owned', 'w') }}" + plain,
        "attributes by filter": "{{ ''|attr('__class__') }}{{ messages|map(attribute='__class__')|list }}" + plain,
        "format strings": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}" + plain,
        "import and include": "{% include '/etc/passwd' %}{% import 'os' as os %}" + plain,
        "cycler and lipsum": "{{ lipsum.__globals__.os.system('touch owned') }}" + plain,
        "a change of the messages": "{{ messages.append(1) }}" + plain,
        "width of 10^10": "{{ '%010000000000d' % 1 }}" + plain,
        "centred in 10^10": "{{ 'x'|center(10**10) }}" + plain,
        "justified in 10^10": "{{ 'x'.ljust(10**10) }}" + plain,
    }
    refused = {name: (template_of(text), False) for name, text in texts.items()}
    # Jinja renders an unsafe attribute that is only printed as an empty text.
    for name in ("attributes by filter", "globals of a function", "format strings"):
        refused[name] = (template_of(texts[name]), True)
    return refused | {"a good one": (template_of(plain), True)}


def template_of(text: str) -> Callable[[Path], str | None]:
    def read(folder: Path) -> str | None:
        from pretokenizer.chat.jinja_format import read_template
        from pretokenizer.tokenizer.load import load_tokenizer

        (folder / "template.jinja").write_text(text)
        read_template(folder / "template.jinja", load_tokenizer(SAMPLE_MODEL))
        return None

    return read


# ---- tokenizers


def tokenizer_cases() -> dict[str, Case]:
    def vocabulary(last: int) -> bytes:
        model = {"type": "BPE", "vocab": {"a": 0, "</s>": last}, "merges": []}
        return json.dumps({"version": "1.0", "model": model, "added_tokens": []}).encode()

    deep = b'{"version": "1.0", "normalizer": ' + b'{"type": "Sequence", "normalizers": [' * 5000
    return {
        "an id of 4,000,000,000": (tokenizer_of("tokenizer.json", vocabulary(4_000_000_000)), False),
        "a tokenizer.json nested without end": (tokenizer_of("tokenizer.json", deep), False),
        "a tokenizer.json that is a number": (tokenizer_of("tokenizer.json", b"7"), False),
        "a tokenizer.model of zeros": (tokenizer_of("tokenizer.model", bytes(1 << 20)), False),
        "a tokenizer.model that claims 2 GB": (tokenizer_of("tokenizer.model", b"\x0a\xff\xff\xff\xff\x07"), False),
        "pieces that are no UTF-8": (tokenizer_of("tokenizer.model", broken_pieces()), False),
    }


def broken_pieces() -> bytes:
    """Return the sample model with a piece that is not UTF-8."""
    data = bytearray(SAMPLE_MODEL.read_bytes())
    place = data.index(b"\xe2\x96\x81")
    data[place : place + 3] = b"\xff\xfe\xfd"
    return bytes(data)


def tokenizer_of(name: str, data: bytes) -> Callable[[Path], str | None]:
    def read(folder: Path) -> str | None:
        from pretokenizer.tokenizer.load import load_tokenizer

        (folder / name).write_bytes(data)
        return str(load_tokenizer(folder / name).vocab_size)

    return read
