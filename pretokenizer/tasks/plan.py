"""The plan of a build: the files it reads, cut into tasks that any process on any machine can run alone.

A plan has tasks, a task has pieces, and a piece has spans (byte ranges) of input files. A plan depends only on the
configuration and the input files, never on the number of workers. So the output has the same bytes everywhere.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pretokenizer.chat.formats import CHAT_FORMATS, ChatFormatError, get_chat_format
from pretokenizer.chat.template_source import template_path
from pretokenizer.config.paths import find_file
from pretokenizer.config.settings import PretokenizeConfig
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.checksums import sha256_file
from pretokenizer.records.locate import DatasetFiles, locate_files
from pretokenizer.records.reader import FileSpan, split_file
from pretokenizer.sources import make_source
from pretokenizer.sources.source import Source
from pretokenizer.tasks.decontaminate import question_files
from pretokenizer.tokenizer.base import TokenizerError
from pretokenizer.tokenizer.load import load_tokenizer

CHUNK_BYTES = 8 << 20
"""Size in bytes of the spans that uncompressed JSON-lines files are cut into."""
FINGERPRINT_VERSION = 4
"""Version of the part files' format. A build does not resume with parts of another version."""


class BuildError(ValueError):
    """A build that cannot continue. The message says what to do."""


@dataclass(frozen=True)
class Piece:
    """A share of the work on one data set: spans of its files, whose documents are written to one part file."""

    dataset: int
    """Index of the data set among the configuration's entries."""
    is_val: bool
    """Whether the spans belong to the data set's own validation files."""
    files: tuple[tuple[int, FileSpan], ...]
    """Pairs (index of the file among the data set's train and val files, span of that file)."""


@dataclass(frozen=True)
class Task:
    """Pieces that one process works on in order. A task has several pieces only where they share random numbers."""

    index: int
    pieces: tuple[Piece, ...]

    def stem(self, folder: Path, piece: int) -> Path:
        """Return the path, without suffix, of the part file in `folder` that belongs to the piece number `piece`."""
        return folder / f"part-{self.index:05d}-{piece:02d}"


@dataclass(frozen=True)
class Plan:
    """The work of a build: its configuration, input files and tasks."""

    config: PretokenizeConfig
    datasets: tuple[DatasetFiles, ...]
    """The input files of each data set in the configuration."""
    tasks: tuple[Task, ...]
    input_paths: tuple[Path, ...]
    """Every file that the build reads, including the tokenizer and the chat template."""
    known_inputs: dict[str, dict[str, Any]] | None = None
    """The value of `inputs` when the plan was read from plan.json; None when it must be computed."""

    @cached_property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """{path: {"bytes": size, "sha256": checksum}} of every input file. The first access reads all files."""
        if self.known_inputs is not None:
            return self.known_inputs
        return {str(path): {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in self.input_paths}

    @property
    def sources(self) -> list[Source]:
        """For each data set in the configuration, the source that converts its records."""
        return make_sources(self.config)

    def fingerprint(self) -> str:
        """Return a SHA-256 of everything that decides the bytes of the output.

        Part files of two plans can be combined only when the fingerprints are equal.
        """
        config = dataclasses.asdict(self.config)
        for key in ("output_dir", "output_dir_suffix", "filename_prefix", "compress", "data_dir", "cache_dir"):
            del config[key]
        hashes = [(Path(path).name, record["sha256"]) for path, record in self.inputs.items()]
        described = {"config": config, "inputs": hashes, "tasks": len(self.tasks), "version": FINGERPRINT_VERSION}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def make_sources(config: PretokenizeConfig) -> list[Source]:
    """Return, for each data set in the configuration, the source that converts its records.

    Raises ConfigError for an unknown name or option.
    """
    return [make_source(e.name, e.options, e.val_split, config.consecutive_roles) for e in config.entries]


def make_plan(config: PretokenizeConfig, chunk_bytes: int = CHUNK_BYTES) -> Plan:
    """Find all input files of a build, downloading them if necessary, and return its plan.

    Plain JSON-lines files are cut into spans of `chunk_bytes`. Raises ConfigError, DataMissingError or TokenizerError.
    """
    entries = config.entries
    sources = make_sources(config)
    tokenizer_path = tokenizer_file(config)
    data_dir = find_file(config.data_dir)
    located = [locate_files(e, s.layout, data_dir, config.cache_dir) for e, s in zip(entries, sources, strict=True)]
    pieces = [_pieces(i, s, files, chunk_bytes) for i, (s, files) in enumerate(zip(sources, located, strict=True))]
    # Data sets that draw from the shared generator form one task, because each draw depends on the draws before it.
    chain = tuple(piece for source, own in zip(sources, pieces, strict=True) if source.uses_random for piece in own)
    alone = [(piece,) for source, own in zip(sources, pieces, strict=True) if not source.uses_random for piece in own]
    tasks = tuple(Task(i, group) for i, group in enumerate([*([chain] if chain else []), *alone]))
    paths = [tokenizer_path, *(path for files in located for path in (*files.train, *files.val))]
    template = template_file(config)
    paths += [*question_files(config), *([template] if template else [])]
    return Plan(config, tuple(located), tasks, tuple(paths))


def _pieces(dataset: int, source: Source, files: DatasetFiles, chunk_bytes: int) -> list[Piece]:
    """Return the pieces of a data set: one for each span of its files, if its records can be converted independently.

    Plain JSON-lines files are cut into spans of `chunk_bytes`; other files are one span each. If records depend on
    each other, return one piece for all train files and one for all val files.
    """
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


def tokenizer_file(config: PretokenizeConfig) -> Path:
    """Return the path of the configuration's tokenizer file.

    Raises ConfigError when the configuration names none, and TokenizerError when the file does not exist.
    """
    if not config.vocab_file:
        raise ConfigError(
            "vocab_file: not set; add a tokenizer section to --configs (llama2, gpt_neox, falcon, sample)"
        )
    path = find_file(config.vocab_file)
    if path.is_dir():
        path = load_tokenizer(path).path
    if not path.is_file():
        raise TokenizerError(
            f"{path}: no such tokenizer file. Copy the model's own tokenizer.model or tokenizer.json there (whoever"
            " publishes the model's weights publishes it with them), or give --vocab_file PATH, or use the small"
            " tokenizer of this project: TOKENIZER=sample (--configs ... sample)"
        )
    return path


def template_file(config: PretokenizeConfig) -> Path | None:
    """Return the path of the configuration's Jinja chat template, or None when `chat_format` is a built-in format.

    Raises ConfigError when `chat_format` is neither.
    """
    if config.chat_format in CHAT_FORMATS:
        return None
    path = find_file(template_path(config.chat_format)[0])
    if path.is_file():
        return path
    try:
        get_chat_format(config.chat_format)
    except ChatFormatError as error:
        raise ConfigError(f"{error}, and no file with a Jinja template has this path") from None
    return None
