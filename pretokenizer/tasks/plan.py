"""The plan of a build: which files are read, cut into tasks that any process on any machine can do alone.

A plan depends on the configuration and the input files only, never on the number of workers, so that its tasks, and the
bytes made from them, are the same everywhere.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pretokenizer.chat.formats import CHAT_FORMATS, ChatFormat, ChatFormatError, get_chat_format
from pretokenizer.chat.jinja_format import read_template
from pretokenizer.config.paths import find_file
from pretokenizer.config.settings import PretokenizeConfig
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.checksums import sha256_file
from pretokenizer.records.locate import DatasetFiles, locate_files
from pretokenizer.records.reader import FileSpan, split_file
from pretokenizer.sources import make_source
from pretokenizer.sources.source import Source
from pretokenizer.tasks.decontaminate import question_files
from pretokenizer.tokenizer.base import Tokenizer, TokenizerError
from pretokenizer.tokenizer.load import load_tokenizer

CHUNK_BYTES = 8 << 20
"""Plain JSON-lines files are cut into spans of this size."""


@dataclass(frozen=True)
class Piece:
    """Work that gives one part: spans of one data set's files, in order."""

    dataset: int
    """Into the configuration's entries."""
    is_val: bool
    """From the native val files."""
    files: tuple[tuple[int, FileSpan], ...]
    """(number of the file among the data set's train and val files, span)."""


@dataclass(frozen=True)
class Task:
    """Pieces that one process does in order; more than one only where data sets share random numbers."""

    index: int
    pieces: tuple[Piece, ...]

    def stem(self, folder: Path, piece: int) -> Path:
        """Path of a piece's part, without suffix."""
        return folder / f"part-{self.index:05d}-{piece:02d}"


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    config: PretokenizeConfig
    datasets: tuple[DatasetFiles, ...]
    tasks: tuple[Task, ...]
    input_paths: tuple[Path, ...]
    """Every file read, the tokenizer's too."""
    known_inputs: dict[str, dict[str, Any]] | None = None
    """`inputs` of a plan that was written to a file."""

    @cached_property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Path -> bytes and sha256 of every file read; hashed when it is first asked for."""
        if self.known_inputs is not None:
            return self.known_inputs
        return {str(path): {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in self.input_paths}

    @property
    def sources(self) -> list[Source]:
        """The source of each entry."""
        return [make_source(entry.name, entry.options, entry.val_split) for entry in self.config.entries]

    def fingerprint(self) -> str:
        """SHA-256 over what decides the bytes: parts of plans with the same fingerprint belong together."""
        config = dataclasses.asdict(self.config)
        for key in ("output_dir", "output_dir_suffix", "filename_prefix", "compress", "data_dir", "cache_dir"):
            del config[key]
        hashes = [(Path(path).name, record["sha256"]) for path, record in self.inputs.items()]
        described = {"config": config, "inputs": hashes, "tasks": len(self.tasks), "version": 2}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def make_plan(config: PretokenizeConfig, chunk_bytes: int = CHUNK_BYTES) -> Plan:
    """Find every input and cut the work into tasks. Raises ConfigError, DataMissingError or TokenizerError."""
    entries = config.entries
    sources = [make_source(entry.name, entry.options, entry.val_split) for entry in entries]
    tokenizer_path = tokenizer_file(config)
    data_dir = find_file(config.data_dir)
    located = [locate_files(e, s.layout, data_dir, config.cache_dir) for e, s in zip(entries, sources, strict=True)]
    pieces = [_pieces(i, s, files, chunk_bytes) for i, (s, files) in enumerate(zip(sources, located, strict=True))]
    # One task for all data sets that draw from the shared generator, because each draw depends on those before.
    chain = tuple(piece for source, own in zip(sources, pieces, strict=True) if source.uses_random for piece in own)
    alone = [(piece,) for source, own in zip(sources, pieces, strict=True) if not source.uses_random for piece in own]
    tasks = tuple(Task(i, group) for i, group in enumerate([*([chain] if chain else []), *alone]))
    paths = [tokenizer_path, *(path for files in located for path in (*files.train, *files.val))]
    extra = question_files(config)
    template = template_file(config)
    extra += [template] if template else []
    return Plan(config, tuple(located), tasks, (*paths, *extra))


def tokenizer_file(config: PretokenizeConfig) -> Path:
    """The tokenizer's file. Raises ConfigError or TokenizerError with the remedy."""
    if not config.vocab_file:
        raise ConfigError(
            "vocab_file: not set; add a tokenizer section to --configs (llama2, gpt_neox, falcon, sample)"
        )
    path = find_file(config.vocab_file)
    if path.is_dir():
        path = load_tokenizer(path).path
    if not path.is_file():
        raise TokenizerError(
            f"{path}: no such tokenizer file. Copy the model's own tokenizer.model or tokenizer.json there (it comes"
            " with the model's weights, from whoever publishes them), or give --vocab_file PATH, or try it with the"
            " small tokenizer of this project: TOKENIZER=sample (--configs ... sample)"
        )
    return path


def template_file(config: PretokenizeConfig) -> Path | None:
    """The file of a Jinja chat template, None for a named format. Raises ConfigError when it is neither."""
    if config.chat_format in CHAT_FORMATS:
        return None
    path = find_file(config.chat_format)
    if path.is_file():
        return path
    try:
        get_chat_format(config.chat_format)
    except ChatFormatError as error:
        raise ConfigError(f"{error}, and it is no file with a Jinja template either") from None
    return None


def load_plan_tokenizer(config: PretokenizeConfig) -> tuple[Tokenizer, ChatFormat]:
    """Tokenizer and chat format; the format's control tokens are added when the configuration names none.

    Raises ConfigError when the format needs a token that the vocabulary then lacks.
    """
    named = CHAT_FORMATS.get(config.chat_format)
    template = template_file(config)
    names = config.vocab_extra_ids_list
    extra = tuple(n for n in (names or "").strip('"').split(",") if n)
    if names is None:  # those of the format; of chatml's those that a template spells
        spelled = template.read_text(encoding="utf-8", errors="replace") if template else ""
        extra = (
            named.special_tokens if named else tuple(t for t in CHAT_FORMATS["chatml"].special_tokens if t in spelled)
        )
    tokenizer = load_tokenizer(tokenizer_file(config), extra, config.new_tokens)
    chat_format = read_template(template, tokenizer) if template else get_chat_format(config.chat_format)
    needed = dict.fromkeys((*chat_format.special_tokens, chat_format.end_of_turn))
    missing = [token for token in needed if tokenizer.token_to_id(token) is None]
    if missing:
        raise ConfigError(
            f"chat_format {chat_format.name} needs {', '.join(missing)}, which {tokenizer.path} has not;"
            " add them to vocab_extra_ids_list"
        )
    return tokenizer, chat_format


def _pieces(dataset: int, source: Source, files: DatasetFiles, chunk_bytes: int) -> list[Piece]:
    pieces = []
    for is_val, paths, first in ((False, files.train, 0), (True, files.val, len(files.train))):
        spans = []
        for number, path in enumerate(paths, first):
            own = split_file(path, chunk_bytes) if source.independent else [FileSpan(str(path))]
            spans += [(number, span) for span in own]
        if not source.independent:
            pieces += [Piece(dataset, is_val, tuple(spans))] if spans else []
        else:
            pieces += [Piece(dataset, is_val, (span,)) for span in spans]
    return pieces
