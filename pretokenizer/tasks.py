"""Doing a task: read records, convert, encode in batches, leave parts. Runs in any process."""

import random
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pretokenizer.chat_format import ChatFormat, FramedFormat
from pretokenizer.conversation import Conversation
from pretokenizer.decontaminate import Questions
from pretokenizer.encode import Encoder
from pretokenizer.encoded_batch import EngineMismatchError
from pretokenizer.engine import make_engine
from pretokenizer.parts import PartWriter, is_complete
from pretokenizer.plan import Piece, Plan, Task, load_plan_tokenizer
from pretokenizer.record_files import FileSpan, RecordError, read_records
from pretokenizer.shard import optimal_dtype
from pretokenizer.sources.source import InputRecord, Source, stem_of
from pretokenizer.tokenizer import Tokenizer
from pretokenizer.word_cache import make_word_cache
from pretokenizer.word_pass import WordPass

BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 4 << 20
Batch = list[tuple[int, int, list[Conversation]]]
"""(file number, row, conversations) of records that count."""


class TaskRunner:
    """Does tasks of one plan; loads the tokenizer and proves the engine once."""

    def __init__(self, plan: Plan, folder: Path, loaded: tuple[Tokenizer, ChatFormat] | None = None) -> None:
        self.plan = plan
        self.folder = folder
        self.sources = plan.sources
        tokenizer, chat_format = loaded or load_plan_tokenizer(plan.config)
        frames = list(chat_format.frames.values()) if isinstance(chat_format, FramedFormat) else [("", "")]
        engine, self.engine_line = make_engine(tokenizer, frames)
        encode_special, keep_texts = plan.config.special_tokens_in_text == "encode", plan.config.write_json
        cache = make_word_cache(tokenizer) if engine is None and isinstance(chat_format, FramedFormat) else None
        words = WordPass(tokenizer, chat_format, cache) if cache and isinstance(chat_format, FramedFormat) else None
        if words is not None:
            self.engine_line += ", words cached"
        self.encoder = Encoder(tokenizer, chat_format, engine, words, encode_special, keep_texts)
        self.reference = Encoder(tokenizer, chat_format, None, None, encode_special, keep_texts)
        self.dtype = optimal_dtype(tokenizer.vocab_size)
        self.questions = Questions.load(plan.config) if plan.config.decontaminate else None

    def run(self, task: Task) -> None:
        """Do what is not done yet of a task. Raises RecordError."""
        stems = [task.stem(self.folder, number) for number in range(len(task.pieces))]
        if all(map(is_complete, stems)):
            return
        try:
            self._run(task, stems, self.encoder)
        except EngineMismatchError as error:
            self._run(
                task,
                stems,
                self.reference,
                f"the fast way gave other ids for {str(error)[:80]!r}; encoded again exactly",
            )

    def _run(self, task: Task, stems: list[Path], encoder: Encoder, warning: str | None = None) -> None:
        # Pieces of one task share the generator, so a restarted task starts with its first piece.
        rng = random.Random(self.plan.config.rng_seed)
        for piece, stem in zip(task.pieces, stems, strict=True):
            started = time.process_time()
            with PartWriter(stem, self.dtype, self.plan.config.write_json) as part:
                part.header.engine = self.engine_line if encoder is self.encoder else "the reference"
                part.header.warnings += [warning] if warning else []
                for batch in self._batches(piece, part, rng):
                    self._write_batch(part, batch, encoder, piece)
                part.header.seconds["total"] = time.process_time() - started

    def _batches(self, piece: Piece, part: PartWriter, rng: random.Random) -> Iterator[Batch]:
        """Records that count with their conversations, in batches; the others are counted by reason."""
        batch: Batch = []
        documents = characters = 0
        for item in self._convert(piece, part, rng):
            converted = item[2]
            if converted.__class__ is str:
                part.header.dropped[converted] += 1
                continue
            batch.append(item)
            for conversation in converted:
                documents += 1
                for _, text in conversation[0]:
                    characters += len(text) if text.__class__ is str else 0  # other than text is refused on encoding
            if documents >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS or len(batch) >= 4 * BATCH_DOCUMENTS:
                yield batch
                batch, documents, characters = [], 0, 0
        if batch:
            yield batch

    def _convert(self, piece: Piece, part: PartWriter, rng: random.Random) -> Iterator[tuple[int, int, Any]]:
        """(file number, row, conversations or reason) of each record."""
        source = self.sources[piece.dataset]
        files = self.plan.datasets[piece.dataset]
        paths = (*files.train, *files.val)
        if source.independent:
            for number, span in piece.files:
                yield from _convert_alone(source, number, span, part)
            return
        current = paths[piece.files[0][0]]

        def records() -> Iterator[InputRecord]:
            nonlocal current
            for number, span in piece.files:
                current = paths[number]
                stem = stem_of(current)
                for row, record in read_records(span):
                    part.header.num_records += 1
                    yield InputRecord(number, row, stem, record)

        try:
            for item, converted in source.convert_all(records(), rng):
                yield item.file_index, item.row, converted
        except RecordError as error:
            message = str(error)
            raise RecordError(message if message.startswith(str(current)) else f"{current}: {message}") from None

    def _write_batch(self, part: PartWriter, batch: Batch, encoder: Encoder, piece: Piece) -> None:
        conversations = list(chain.from_iterable(converted for _, _, converted in batch))
        try:
            encoded = encoder.encode(conversations)
        except TypeError:
            _refuse_other_than_text(batch, dict(piece.files))
            raise
        except UnicodeEncodeError:
            batch = _without_broken_text(batch, part)
            conversations = list(chain.from_iterable(converted for _, _, converted in batch))
            encoded = encoder.encode(conversations)
        part.add_units([file for file, _, _ in batch], [row for _, row, _ in batch], [len(c) for _, _, c in batch])
        contaminated = [self.questions.has_run_of(c) for c in conversations] if self.questions else None
        part.add_documents(encoded, [c.lang for c in conversations], contaminated)


def _convert_alone(source: Source, number: int, span: FileSpan, part: PartWriter) -> Iterator[tuple[int, int, Any]]:
    """Records of a source that converts each by itself; errors name file and record."""
    stem = stem_of(Path(span.path))
    convert = source.convert
    row = -1
    for row, record in read_records(span):
        try:
            yield number, row, convert(record, stem)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            item = InputRecord(number, row + _records_before(span), stem, record)
            raise RecordError(f"{span.path}: {source.record_error(item, error)}") from None
    part.header.num_records += row + 1


def _without_broken_text(batch: Batch, part: PartWriter) -> Batch:
    """The batch without records whose text cannot be written as UTF-8 (half of a surrogate pair)."""
    sound = []
    for item in batch:
        try:
            for conversation in item[2]:
                for message in conversation.messages:
                    message.text.encode("utf-8")
        except UnicodeEncodeError:
            part.header.dropped["broken Unicode"] += 1
            continue
        sound.append(item)
    return sound


def _refuse_other_than_text(batch: Batch, spans: dict[int, FileSpan]) -> None:
    """Raise RecordError for the first record with a message that is no text."""
    for number, row, converted in batch:
        for conversation in converted:
            for message in conversation.messages:
                if not isinstance(message.text, str):
                    record, role = row + _records_before(spans[number]) + 1, message.role.template_name
                    found = f"{type(message.text).__name__} {message.text!r:.60}"
                    raise RecordError(f"{spans[number].path}: record {record}: the {role} message is no text: {found}")


def _records_before(span: FileSpan) -> int:
    """Records of the file that stand before a span; counted only for an error's sake."""
    return sum(1 for _ in read_records(FileSpan(span.path, 0, span.start))) if span.start else 0
