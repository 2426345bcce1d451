"""Run a task in any process: read records, convert them, encode them in batches, write a part for each piece."""

import random
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pretokenizer.chat.conversation import Conversation
from pretokenizer.chat.formats import ChatFormatError, FramedFormat
from pretokenizer.chat.history import unroll
from pretokenizer.encode.batch import EngineMismatchError
from pretokenizer.encode.encoder import Encoder, make_encoder
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.files.shard import optimal_dtype
from pretokenizer.records.file_names import stem_of
from pretokenizer.records.json_text import Record, RecordError
from pretokenizer.records.reader import FileSpan, read_records
from pretokenizer.sources.source import (
    WRONG_FORM,
    BadRecord,
    Converted,
    InputRecord,
    RecordSource,
    Source,
    bad_record,
    wrong_text,
)
from pretokenizer.tasks.bad_records import BadRecordLog
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.decontaminate import Questions
from pretokenizer.tasks.part_files import (
    EncoderMismatch,
    PartWriter,
    found_mismatch,
    is_complete,
    read_header,
    record_mismatch,
)
from pretokenizer.tasks.plan import Piece, Task

BATCH_DOCUMENTS = 1024
"""Number of documents after which a batch is encoded."""
BATCH_CHARACTERS = 4 << 20
"""Number of characters after which a batch is encoded."""
MAX_UNUSED = 100
"""Largest number of unused fields that the header of a part names."""
MAX_SHAPES = 1000
"""Largest number of different key lists, among the records of a piece, whose unused fields are noted."""
Batch = list[tuple[int, int, list[Conversation]]]
"""Records that give samples, each as (index of its file, row in the file, its conversations)."""


class TaskRunner:
    """Runs tasks of one build in one process, and writes their part files into `folder`.

    It compares the fast encoder with the reference once, at the start.
    """

    def __init__(self, context: BuildContext, folder: Path) -> None:
        self.config, self.folder, self.is_strict = context.config, folder, context.options.strict
        self.max_line_bytes = self.config.max_line_mb << 20
        self.sources = context.plan.sources
        tokenizer, chat_format = context.tokenizer, context.chat_format
        self.chat_format, self.is_framed = chat_format, isinstance(chat_format, FramedFormat)
        encode_special, keep_texts = self.config.special_tokens_in_text == "encode", self.config.write_json
        self.encoder, self.engine_line = make_encoder(tokenizer, chat_format, encode_special, keep_texts)
        reference = ReferencePass(tokenizer, chat_format, encode_special)
        self.reference = Encoder(reference, reference, keep_texts)
        self.reference_line = f"{tokenizer.kind} (the reference)"
        self.dtype = optimal_dtype(tokenizer.vocab_size)
        self.questions = Questions.load(self.config) if self.config.decontaminate else None

    def run(self, task: Task) -> None:
        """Run the unfinished pieces of a task.

        If any process found the fast encoder wrong, redo every piece that the reference encoder did not encode. Raises
        RecordError for a damaged file and, with --strict, for the first bad record.
        """
        stems = [task.stem(self.folder, number) for number in range(len(task.pieces))]
        if self.is_strict:
            _refuse_bad(stems)
        mismatch = found_mismatch(self.folder)
        if all(map(is_complete, stems)) and (not mismatch or all(read_header(stem).is_exact for stem in stems)):
            return
        if not mismatch:
            try:
                self._run(task, stems, self.encoder)
                return
            except EngineMismatchError as error:
                names = self.encoder.way.name, self.reference.way.name
                record_mismatch(self.folder, EncoderMismatch(*names, str(error)[:80]))
        self._run(task, stems, self.reference)

    def _run(self, task: Task, stems: list[Path], encoder: Encoder) -> None:
        """Run all pieces of a task with `encoder`. `stems` are the paths of their part files without suffix."""
        for stem in stems:  # the old parts become incomplete before they are overwritten
            stem.with_suffix(".json").unlink(missing_ok=True)
        # The pieces of a task share the generator, so a task resumes from its first piece.
        rng = random.Random(self.config.rng_seed)
        for piece, stem in zip(task.pieces, stems, strict=True):
            started = time.process_time()
            source = self.sources[piece.dataset]
            source.unused.clear()
            source.irregular.clear()
            with PartWriter(stem, self.dtype, self.config.write_json) as part:
                part.header.is_exact = encoder is self.reference
                part.header.encoder = encoder.way.name
                part.header.engine = self.reference_line if encoder is self.reference else self.engine_line
                part.header.warnings += self.encoder.warnings
                log = BadRecordLog(part.header, dict(piece.files), self.is_strict)
                for batch in self._batches(piece, part, log, rng):
                    self._write_batch(part, batch, encoder, log)
                part.header.unused = sorted(source.unused)[:MAX_UNUSED]
                part.header.irregular = source.irregular
                part.header.seconds["total"] = time.process_time() - started

    def _batches(self, piece: Piece, part: PartWriter, log: BadRecordLog, rng: random.Random) -> Iterator[Batch]:
        """Yield the records of a piece in batches, each record with its conversations.

        Records without a conversation are counted in the header of `part` and left out.
        """
        batch: Batch = []
        documents = characters = 0
        for number, row, converted in self._convert(piece, part, log, rng):
            if isinstance(converted, str):
                part.header.dropped[converted] += 1
                continue
            if not isinstance(converted, list):
                log.add(number, row, converted)
                continue
            if not self.is_framed and (wrong := wrong_text(converted)):  # a template would write None as text
                log.add(number, row, wrong)
                continue
            if self.chat_format.history == "unroll":
                converted = [part for conversation in converted for part in unroll(conversation)]
            batch.append((number, row, converted))
            for conversation in converted:
                documents += 1
                for message in conversation.messages:
                    text = message.text
                    characters += len(text) if text.__class__ is str else 0  # encoding reports other types as bad
            if documents >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS or len(batch) >= 4 * BATCH_DOCUMENTS:
                yield batch
                batch, documents, characters = [], 0, 0
        if batch:
            yield batch

    def _convert(
        self, piece: Piece, part: PartWriter, log: BadRecordLog, rng: random.Random
    ) -> Iterator[tuple[int, int, Converted]]:
        """Yield (index of the file, row, result) for each record of a piece.

        The result is the record's conversations, the reason to drop it, or a BadRecord.
        """
        source = self.sources[piece.dataset]
        if isinstance(source, RecordSource) and source.independent:
            for number, span in piece.files:
                yield from self._convert_alone(source, number, span, part, log)
            return
        for item, converted in source.convert_all(self._records(source, piece, part, log), rng):
            yield item.file_index, item.row, converted

    def _convert_alone(
        self, source: RecordSource, number: int, span: FileSpan, part: PartWriter, log: BadRecordLog
    ) -> Iterator[tuple[int, int, Converted]]:
        """Yield (index of the file, row, result) for the records of a span, each of which is converted alone."""
        stem, convert = stem_of(Path(span.path)), source.convert
        shapes: set[tuple[str, ...]] = set()
        row = log.last_unreadable = -1
        for row, record in read_records(span, log.add_unreadable, self.max_line_bytes):
            _note_fields(source, record, shapes)
            try:
                converted = convert(record, stem)
            except WRONG_FORM as error:
                converted = bad_record(record, error)
            yield number, row, converted
        num_records = max(row, log.last_unreadable) + 1
        part.header.num_records += num_records
        part.header.file_records[str(number)] += num_records

    def _records(self, source: Source, piece: Piece, part: PartWriter, log: BadRecordLog) -> Iterator[InputRecord]:
        """Yield the records in all files of a piece, for a source that converts them together and may stop early."""
        before = 0
        shapes: set[tuple[str, ...]] = set()
        for number, span in piece.files:
            stem = stem_of(Path(span.path))
            row = log.last_unreadable = -1
            for row, record in read_records(span, log.add_unreadable, self.max_line_bytes):
                part.header.num_records = before + row + 1
                part.header.file_records[str(number)] = row + 1
                _note_fields(source, record, shapes)
                yield InputRecord(number, row, stem, record)
            part.header.file_records[str(number)] = max(row, log.last_unreadable) + 1
            before = part.header.num_records = before + part.header.file_records[str(number)]

    def _sound(self, batch: Batch, log: BadRecordLog) -> Batch:
        """Return the records of a batch that the chat format can express, and log the others as bad records."""
        sound: Batch = []
        for number, row, conversations in batch:
            bad = wrong_text(conversations) or self._not_expressed(conversations)
            if bad:
                log.add(number, row, bad)
            else:
                sound.append((number, row, conversations))
        return sound

    def _not_expressed(self, conversations: list[Conversation]) -> BadRecord | None:
        """Return a BadRecord if the chat format cannot express one of a record's conversations, else None."""
        try:
            for conversation in conversations:
                self.chat_format.render(conversation).text.encode("utf-8")
        except ChatFormatError as error:
            return BadRecord("the chat format cannot express it", str(error))
        except UnicodeEncodeError:  # in a field of a message, such as a tool call
            return BadRecord("broken Unicode")
        return None

    def _write_batch(self, part: PartWriter, batch: Batch, encoder: Encoder, log: BadRecordLog) -> None:
        """Encode the records of a batch and add their documents to `part`.

        If encoding fails, log the records that cannot be encoded as bad, and encode the others.
        """
        conversations = list(chain.from_iterable([converted for _, _, converted in batch]))
        try:
            encoded = encoder.encode(conversations)
        except EngineMismatchError:
            raise
        except Exception:  # formats and tokenizers raise different errors for bad text
            sound = self._sound(batch, log)
            if len(sound) == len(batch):
                raise
            self._write_batch(part, sound, encoder, log)
            return
        part.add_units([file for file, _, _ in batch], [row for _, row, _ in batch], [len(c) for _, _, c in batch])
        contaminated = [self.questions.has_run_of(c) for c in conversations] if self.questions else None
        part.add_documents(encoded, [c.lang for c in conversations], contaminated)


def _note_fields(source: Source, record: Record, shapes: set[tuple[str, ...]]) -> None:
    """Let `source` note the fields of a record that it does not use.

    `shapes` holds the key lists noted so far; a record with a known key list is skipped, which saves time.
    """
    shape = tuple(record)
    if shape not in shapes and len(shapes) < MAX_SHAPES:
        shapes.add(shape)
        source.note_fields(record)


def _refuse_bad(stems: list[Path]) -> None:
    """Raise RecordError for the first bad record in finished parts, which an earlier run without --strict allowed."""
    for stem in stems:
        examples = read_header(stem).bad_examples if is_complete(stem) else []
        if examples:
            raise RecordError(examples[0])
