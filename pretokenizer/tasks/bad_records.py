"""Count bad records by reason, name the first ones by file and line, and stop a build with too many.

A record is bad when it is not a JSON object, has other keys or types than its source expects, has roles that do not
alternate or empty turns, or has broken Unicode. Records that Open-Assistant drops without an error are not bad.
"""

from pretokenizer.records.json_text import RecordError
from pretokenizer.records.reader import FileSpan, place_of
from pretokenizer.sources.source import BadRecord
from pretokenizer.tasks.part_files import PartHeader

MAX_EXAMPLES = 20
"""Number of bad records that the header of a part names by file and line."""
MAX_REASONS = 50
"""Number of reasons that the header of a part counts separately; all further ones count as `other reasons`."""


class BadRecordsError(ValueError):
    """A data set has more bad records than --max_bad_fraction allows. The message names the first of them."""


class BadRecordLog:
    """Counts the bad records of one part file and lists the first ones, in the header of the part file."""

    def __init__(self, header: PartHeader, spans: dict[int, FileSpan], is_strict: bool) -> None:
        self.header, self.spans, self.is_strict = header, spans, is_strict
        self.last_unreadable = -1
        """Row of the last line that could not be read as a record, or -1 when all lines could."""

    def add(self, file_number: int, row: int, bad: BadRecord) -> None:
        """Count a bad record, given by its file and its row in the file. Raises RecordError with --strict."""
        if self.is_strict or len(self.header.bad_examples) < MAX_EXAMPLES:
            self._name(
                f"{place_of(self.spans[file_number], row)}: {bad.reason}" + (f"; {bad.found}" if bad.found else "")
            )
        self._count(bad.reason)

    def add_unreadable(self, row: int, place: str, reason: str) -> None:
        """Count a line that is not a record. `place` names its file and line. Raises RecordError with --strict."""
        self.last_unreadable = row
        self._name(f"{place}: {reason}")
        self._count(reason.partition(":")[0].partition(",")[0])

    def _name(self, example: str) -> None:
        example = _printable(example)
        if self.is_strict:
            raise RecordError(example)
        if len(self.header.bad_examples) < MAX_EXAMPLES:
            self.header.bad_examples.append(example)

    def _count(self, reason: str) -> None:
        known, reason = self.header.bad, _printable(reason)
        known[reason if reason in known or len(known) < MAX_REASONS else "other reasons"] += 1


def _printable(text: str) -> str:
    """Return `text` with its control characters and line breaks escaped, for use in one line of a message."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def refuse_too_many(names: list[str], headers: list[list[PartHeader]], max_fraction: float) -> list[str]:
    """Return one warning for each data set that has bad records.

    `names` holds the names of the data sets, and `headers` the part headers of each. Raises BadRecordsError when the
    share of bad records in one data set is above `max_fraction`.
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
                f"{found}, more than --max_bad_fraction {max_fraction:g} allows; the first are{listed}\n"
                "correct the file or the options and start over with --overwrite, or resume with a larger"
                " --max_bad_fraction"
            )
        warnings.append(f"{found} and left out; the first is {examples[0]}")
    return warnings
