"""Records that are wrong are counted by reason, the first of them named by file and line; too many stop the build.

Wrong is: no JSON, no object, a key or type that the source does not expect, roles that do not alternate, an empty turn
in a conversation of one's own, text that is no Unicode. What the original filters without an error is not wrong.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from pretokenizer.chat_format import ChatFormat
from pretokenizer.encode import Encoder
from pretokenizer.parts import PartHeader, PartWriter
from pretokenizer.plan import Piece, Plan
from pretokenizer.record_files import FileSpan, RecordError, place_of, read_records
from pretokenizer.sources.source import WRONG_FORM, BadRecord, InputRecord, Source, bad_record, stem_of
from pretokenizer.tasks import Batch, TaskRunner
from pretokenizer.tokenizer import Tokenizer

MAX_EXAMPLES = 20
"""Bad records that a part names."""
MAX_REASONS = 50
BROKEN_UNICODE = "broken Unicode"
NO_TEXT = "a message is no text"


class BadRecordsError(ValueError):
    """More bad records than --max_bad_fraction allows; the message has their number and the first of them."""


class BadRecordLog:
    """What is wrong with records of one part, in its header."""

    def __init__(self, header: PartHeader, is_strict: bool) -> None:
        self.header, self.is_strict = header, is_strict
        self.num_unreadable = 0
        self.last_row = -1
        """Of an unreadable line."""

    def add(self, span: FileSpan, row: int, bad: BadRecord) -> None:
        """A record that was read. Raises RecordError with --strict."""
        if self.is_strict or len(self.header.bad_examples) < MAX_EXAMPLES:
            self._name(f"{place_of(span, row)}: {bad.reason}" + (f"; {bad.found}" if bad.found else ""))
        self._count(bad.reason)

    def add_unreadable(self, row: int, place: str, reason: str) -> None:
        """A line that is no record. Raises RecordError with --strict."""
        self.num_unreadable += 1
        self.last_row = row
        self._name(f"{place}: {reason}")
        self._count(reason.partition(":")[0].partition(",")[0])

    def _name(self, example: str) -> None:
        if self.is_strict:
            raise RecordError(example)
        if len(self.header.bad_examples) < MAX_EXAMPLES:
            self.header.bad_examples.append(example)

    def _count(self, reason: str) -> None:
        known = self.header.bad
        known[reason if reason in known or len(known) < MAX_REASONS else "other reasons"] += 1


class CountingRunner(TaskRunner):
    """Does tasks, and counts bad records instead of stopping at the first."""

    def __init__(
        self, plan: Plan, folder: Path, is_strict: bool, loaded: tuple[Tokenizer, ChatFormat] | None = None
    ) -> None:
        super().__init__(plan, folder, loaded)
        self.is_strict = is_strict
        self.max_line_bytes = plan.config.max_line_mb << 20

    def _convert(self, piece: Piece, part: PartWriter, rng: Random) -> Iterator[tuple[int, int, Any]]:
        source, log = self.sources[piece.dataset], BadRecordLog(part.header, self.is_strict)
        if source.independent:
            for number, span in piece.files:
                yield from self._convert_alone(source, number, span, log)
            return
        spans = dict(piece.files)
        for item, converted in source.convert_all(self._records(piece, log), rng):
            if isinstance(converted, BadRecord):
                log.add(spans[item.file_index], item.row, converted)
            else:
                yield item.file_index, item.row, converted

    def _convert_alone(
        self, source: Source, number: int, span: FileSpan, log: BadRecordLog
    ) -> Iterator[tuple[int, int, Any]]:
        stem, convert = stem_of(Path(span.path)), source.convert
        row, log.last_row = -1, -1
        converted: Any
        for row, record in read_records(span, log.add_unreadable, self.max_line_bytes):
            try:
                converted = convert(record, stem)
            except WRONG_FORM as error:
                converted = bad_record(record, error)
            if converted.__class__ is BadRecord:
                log.add(span, row, converted)
            else:
                yield number, row, converted
        log.header.num_records += max(row, log.last_row) + 1

    def _records(self, piece: Piece, log: BadRecordLog) -> Iterator[InputRecord]:
        paths = (*self.plan.datasets[piece.dataset].train, *self.plan.datasets[piece.dataset].val)
        for number, span in piece.files:
            stem = stem_of(paths[number])
            for row, record in read_records(span, log.add_unreadable, self.max_line_bytes):
                log.header.num_records += 1
                yield InputRecord(number, row, stem, record)
        log.header.num_records += log.num_unreadable

    def _write_batch(self, part: PartWriter, batch: Batch, encoder: Encoder, piece: Piece) -> None:
        """As its parent, without the records that turn out to be wrong only now: text that is none, or no Unicode."""
        write = partial(super()._write_batch, part, encoder=encoder, piece=piece)
        before = part.header.dropped.pop(BROKEN_UNICODE, 0)
        assert before == 0
        try:
            write(batch)
        except RecordError:
            batch = self._without_wrong_texts(batch, part, piece)
            write(batch)
        if part.header.dropped.pop(BROKEN_UNICODE, 0):
            self._without_wrong_texts(batch, part, piece)

    def _without_wrong_texts(self, batch: Batch, part: PartWriter, piece: Piece) -> Batch:
        """The records of a batch whose messages are all sound; the others are logged."""
        log, spans, sound = BadRecordLog(part.header, self.is_strict), dict(piece.files), []
        for item in batch:
            bad = _wrong_text(item[2])
            if bad:
                log.add(spans[item[0]], item[1], bad)
            else:
                sound.append(item)
        return sound


def _wrong_text(conversations: list[Any]) -> BadRecord | None:
    for conversation in conversations:
        for role, text in conversation.messages:
            if not isinstance(text, str):
                return BadRecord(NO_TEXT, f"the {role.template_name} message is {type(text).__name__} {text!r:.60}")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                return BadRecord(BROKEN_UNICODE)
    return None


def refuse_too_many(names: list[str], headers: list[list[PartHeader]], max_fraction: float) -> list[str]:
    """A warning for each data set with bad records; `headers` are of the parts of each of `names`.

    Raises BadRecordsError when the share of one data set is above `max_fraction`.
    """
    warnings = []
    for name, parts in zip(names, headers, strict=True):
        num_bad, num_records = sum(p.bad.total() for p in parts), sum(p.num_records for p in parts)
        if not num_bad:
            continue
        examples = [example for part in parts for example in part.bad_examples]
        found = f"{name}: {num_bad:,} of {num_records:,} records are bad ({num_bad / num_records:.1%})"
        if num_bad > max_fraction * num_records:
            listed = "".join(f"\n  {example}" for example in examples[:5])
            raise BadRecordsError(
                f"{found}, more than --max_bad_fraction {max_fraction:g}; the first are{listed}\n"
                "mend the file and start over with --overwrite, or go on with a larger --max_bad_fraction"
            )
        warnings.append(f"{found} and left out; the first is {examples[0]}")
    return warnings
