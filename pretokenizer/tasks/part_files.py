"""Part files: the encoded documents of one piece of a build's plan, in record order, before splitting and sampling.

The part of task 3 and piece 1 is `part-00003-01.{tokens,npz,json}`, and `.texts` with --write_json. The `.json` is
written last: a part with its `.json` is complete, and a resumed build keeps it. The bytes do not depend on the machine
or the process.
"""

import json
import zipfile
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pretokenizer.encode.batch import EncodedBatch
from pretokenizer.files.publish import read_json, write_json_atomic, write_text_atomic

_COLUMNS = {
    "unit_files": np.int32,
    "unit_rows": np.int64,
    "unit_documents": np.int32,
    "document_sizes": np.int32,
    "document_turns": np.int32,
    "document_keys": np.uint64,
    "document_controls": np.int32,
    "document_straddling": np.int32,
    "document_langs": np.uint16,
    "document_contaminated": np.bool_,
    "text_bytes": np.int32,
    "turn_sizes": np.int32,
    "turn_roles": np.uint8,
}
"""Column of the .npz file -> type of its elements. DocumentTable explains the columns."""

_MISMATCH_NAME = "encoder_mismatch.json"
MAX_LANGS = 250
"""Number of languages that a part counts separately; all further ones count as `unknown`."""
MAX_LANG_CHARACTERS = 35
"""Length of the longest language tags that RFC 5646 asks programs to support."""


class PartError(ValueError):
    """A part file that is missing or damaged. The message names it."""


@dataclass(frozen=True)
class EncoderMismatch:
    """A text for which the fast encoder gave other ids than the reference. The build then uses only the reference."""

    fast: str
    """Name of the fast encoder."""
    reference: str
    """Name of the reference encoder."""
    text: str
    """Start of the text that the two encoders encoded differently."""

    def __str__(self) -> str:
        return (
            f"{self.fast} gave other ids than {self.reference} for {self.text!r}; {self.reference} encoded everything"
            " again"
        )


@dataclass
class PartHeader:
    """Counts and notes about one part, stored in its `.json` file."""

    num_records: int = 0
    """Number of records read, including dropped and bad records."""
    num_tokens: int = 0
    """Number of tokens in all documents of the part."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Number of records that are sound but give no training sample, by reason."""
    bad: Counter[str] = field(default_factory=Counter)
    """Number of bad records, by reason."""
    bad_examples: list[str] = field(default_factory=list)
    """The first bad records, each as `file:line: reason`."""
    file_records: Counter[str] = field(default_factory=Counter)
    """Number of records read from each file, by the file's index as text, because JSON keys are text."""
    unused: list[str] = field(default_factory=list)
    """Names of fields that records have but the conversion does not use."""
    irregular: Counter[str] = field(default_factory=Counter)
    """Number of conversations with each irregularity that is allowed, such as two messages of one role in a row."""
    langs: list[str] = field(default_factory=lambda: ["unknown"])
    """Names of the languages; the column `document_langs` holds indices into this list."""
    encoder: str = ""
    """Name of the encoder that encoded this part."""
    engine: str = ""
    """Description of the encoder for the reports, which says whether it was compared with the reference."""
    is_exact: bool = False
    """Whether the reference encoded the part because the fast encoder was found wrong."""
    warnings: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    """Sums of the counts that rendering makes, such as compared replies, by their name in NOTES (encode/batch.py)."""
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU time in seconds that the part took, under the key `total`."""


_COUNTERS = ("dropped", "bad", "file_records", "irregular", "notes")


class PartWriter:
    """Writes the files of one part, which holds the encoded documents of one piece of the plan.

    The part is complete when the `with` block ends without an error.
    """

    def __init__(self, stem: Path, dtype: DTypeLike, keep_texts: bool) -> None:
        self.stem = stem
        self.header = PartHeader()
        self._dtype = np.dtype(dtype)
        self._keep_texts = keep_texts
        self._columns: dict[str, list[NDArray[Any]]] = {name: [] for name in _COLUMNS}
        self._lang_ids: dict[str | None, int] = {None: 0, "unknown": 0}

    def __enter__(self) -> "PartWriter":
        self._tokens: BinaryIO = self.stem.with_suffix(".tokens").open("wb")
        self._texts: BinaryIO | None = self.stem.with_suffix(".texts").open("wb") if self._keep_texts else None
        return self

    def add_units(self, files: list[int], rows: list[int], documents: list[int]) -> None:
        """Add units (records that give samples): for each, the index of its file, its row and its number of documents.

        The number of documents may be 0.
        """
        self._append(unit_files=files, unit_rows=rows, unit_documents=documents)

    def add_documents(self, batch: EncodedBatch, langs: list[str | None], contaminated: list[bool] | None) -> None:
        """Add the encoded documents of the units that `add_units` added last, in the same order.

        `langs` and `contaminated` hold one value for each document; None means that none is contaminated.
        """
        tokens = batch.tokens.astype(self._dtype, copy=False)
        raw = memoryview(tokens).cast("B")  # type: ignore[arg-type]
        ends = (np.cumsum(batch.document_sizes) * self._dtype.itemsize).tolist()
        keys, start = [], 0
        for end in ends:
            keys.append(zlib.crc32(raw[start:end]))
            start = end
        self._tokens.write(raw)
        self.header.num_tokens += tokens.size
        self.header.notes += batch.notes
        known = self._lang_ids
        lang_ids = [known[lang] if lang in known else self._lang_id(lang) for lang in langs]
        self._append(
            document_sizes=batch.document_sizes,
            document_turns=batch.turn_counts,
            document_keys=np.array(keys, dtype=np.uint64) << np.uint64(32) | batch.document_sizes.astype(np.uint64),
            document_controls=batch.control_counts,
            document_straddling=batch.straddling_counts,
            document_langs=lang_ids,
            document_contaminated=contaminated if contaminated is not None else np.zeros(len(langs), dtype=bool),
            turn_sizes=batch.turn_sizes,
            turn_roles=batch.turn_roles,
        )
        if self._texts is not None and batch.texts is not None:
            lines = [json.dumps({"text": text}).encode("ascii") + b"\n" for text in batch.texts]
            self._texts.write(b"".join(lines))
            self._append(text_bytes=[len(line) for line in lines])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens.close()
        if self._texts is not None:
            self._texts.close()
        if kind is not None:
            return
        columns: dict[str, Any] = {
            name: np.concatenate(arrays).astype(_COLUMNS[name], copy=False) if arrays else np.empty(0, _COLUMNS[name])
            for name, arrays in self._columns.items()
        }
        np.savez(self.stem.with_suffix(".npz"), **columns)
        write_text_atomic(self.stem.with_suffix(".json"), json.dumps(self.header.__dict__), sync=False)

    def _append(self, **columns: Any) -> None:
        for name, values in columns.items():
            self._columns[name].append(np.asarray(values, dtype=_COLUMNS[name]))

    def _lang_id(self, lang: str | None) -> int:
        """Add a new language to the header's `langs` and return its index.

        Return 0 (unknown) for None, for an invalid name, and when the header has MAX_LANGS names already.
        """
        is_name = isinstance(lang, str) and 0 < len(lang) <= MAX_LANG_CHARACTERS and lang.isprintable()
        if lang is None or not is_name or len(self.header.langs) >= MAX_LANGS:
            return 0
        self._lang_ids[lang] = len(self.header.langs)
        self.header.langs.append(lang)
        return self._lang_ids[lang]


@dataclass(frozen=True)
class Part:
    """A finished part: its header, and one array for each column of its .npz file. Tokens stay on disk."""

    stem: Path
    header: PartHeader
    columns: dict[str, NDArray[Any]]


def is_complete(stem: Path) -> bool:
    """Return whether the part with the path `stem` (without suffix) was written completely."""
    return stem.with_suffix(".json").is_file()


def found_mismatch(folder: Path) -> EncoderMismatch | None:
    """Return the mismatch that a process recorded in a folder of parts with record_mismatch, or None."""
    path = folder / _MISMATCH_NAME
    return EncoderMismatch(**read_json(path)) if path.is_file() else None


def record_mismatch(folder: Path, mismatch: EncoderMismatch) -> None:
    """Write to a folder of parts that the fast encoder is wrong, so that all processes of the build find out."""
    write_json_atomic(folder / _MISMATCH_NAME, asdict(mismatch), sync=False)


def read_header(stem: Path) -> PartHeader:
    """Read the header of a finished part. Raises PartError naming the file when it is missing or damaged."""
    path = stem.with_suffix(".json")
    try:
        raw = read_json(path)
        return PartHeader(**raw | {name: Counter(raw[name]) for name in _COUNTERS})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"cannot read it ({error!r})") from None


def read_part(stem: Path, itemsize: int) -> Part:
    """Read a finished part whose tokens take `itemsize` bytes each.

    Raises PartError naming a missing or damaged file.
    """
    header = read_header(stem)
    try:
        with np.load(stem.with_suffix(".npz"), allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in _COLUMNS}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(stem.with_suffix(".npz"), f"cannot read it ({error})") from None
    tokens_path = stem.with_suffix(".tokens")
    num_bytes = tokens_path.stat().st_size if tokens_path.is_file() else -1
    if (
        num_bytes != header.num_tokens * itemsize
        or int(columns["document_sizes"].sum(dtype=np.int64)) != header.num_tokens
    ):
        raise _damaged(tokens_path, f"{num_bytes} bytes, expected {header.num_tokens * itemsize}")
    return Part(stem, header, columns)


def _damaged(path: Path, problem: str) -> PartError:
    return PartError(f"{path}: {problem}; remove {path.stem}.* there and run the same command again")
