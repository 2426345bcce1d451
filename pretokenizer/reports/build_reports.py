"""The figures of a build, from which stats.md, stats.json and the manifest are written."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pretokenizer.figures.accounting import RecordCounts
from pretokenizer.figures.chat_notes import chat_warnings
from pretokenizer.figures.lengths import LengthReport
from pretokenizer.figures.stats import DatasetStats, total_stats
from pretokenizer.reports.inputs import InputReport
from pretokenizer.selection.document_table import Tables, part_headers
from pretokenizer.selection.duplicates import DuplicateReport
from pretokenizer.selection.near_duplicates import NearDuplicateReport
from pretokenizer.tasks.bad_records import MAX_EXAMPLES
from pretokenizer.tasks.context import BuildContext


@dataclass(frozen=True)
class BadRecords:
    """The bad records of one data set."""

    name: str
    num_records: int
    """Number of records read, good and bad."""
    reasons: dict[str, int]
    """Number of bad records by reason."""
    examples: list[str]
    """The first bad records, each as `file:line: reason`."""


@dataclass(frozen=True)
class BuildReports:
    """All figures of a build. Dictionaries by data set use its index among the configuration's entries."""

    stats: dict[str, list[DatasetStats]]
    """Figures of each data set by split, `train` and `val`; `val` only where it has documents."""
    records: list[RecordCounts]
    """What became of the records of each data set."""
    lengths: dict[str, LengthReport]
    """Lengths of the documents of each split."""
    engines: list[str]
    """The encoders and their proofs."""
    warnings: list[str]
    bad_records: dict[int, BadRecords]
    duplicates: DuplicateReport
    near_duplicates: NearDuplicateReport | None
    """None without --near_duplicates."""
    contaminated: dict[int, tuple[str, int]]
    """(name, number of documents that contain a test question) of each data set; empty without --decontaminate."""
    inputs: list[InputReport]
    """What was read of each data set."""
    files: list[list[str]]
    """Input files of each data set, in the order that document origins refer to."""

    def for_manifest(self) -> dict[str, Any]:
        """Return the part that the manifest records, as plain data."""
        return {
            "engines": self.engines,
            "warnings": self.warnings,
            "bad_records": {
                f"{number}:{bad.name}": {
                    "records": bad.num_records,
                    "reasons": bad.reasons,
                    "examples": bad.examples,
                }
                for number, bad in self.bad_records.items()
            },
            "duplicates": dataclasses.asdict(self.duplicates),
            "contaminated": {f"{number}:{name}": count for number, (name, count) in self.contaminated.items()},
            "files": self.files,
            "inputs": [report.to_json() for report in self.inputs],
        }

    def to_json(self) -> dict[str, Any]:
        """Return the contents of stats.json, as plain data."""
        return {
            "splits": {split: [s.to_json() for s in parts] for split, parts in self.stats.items()},
            "totals": {split: total_stats(parts).to_json() for split, parts in self.stats.items()},
            "lengths": {split: dataclasses.asdict(lengths) for split, lengths in self.lengths.items()},
            "records": [dataclasses.asdict(counts) for counts in self.records],
            "near_duplicates": dataclasses.asdict(self.near_duplicates) if self.near_duplicates else None,
            **self.for_manifest(),
        }


def bad_records(context: BuildContext, tables: Tables) -> dict[int, BadRecords]:
    """Return the bad records of each data set that has any, by the index of the data set."""
    return {
        number: BadRecords(
            name=entry.name,
            num_records=sum(header.num_records for header in headers),
            reasons=dict(sum((header.bad for header in headers), Counter[str]())),
            examples=[example for header in headers for example in header.bad_examples][:MAX_EXAMPLES],
        )
        for number, (entry, headers) in enumerate(zip(context.config.entries, part_headers(tables), strict=True))
        if any(header.bad for header in headers)
    }


def contaminated(context: BuildContext, tables: Tables) -> dict[int, tuple[str, int]]:
    """Count the documents that contain a test question, by the index of the data set."""
    if not context.config.decontaminate:
        return {}
    entries = zip(context.config.entries, tables, strict=True)
    return {number: (entry.name, int(table.contaminated.sum())) for number, (entry, (table, _)) in enumerate(entries)}


def engines_of(tables: Tables) -> list[str]:
    """Return the encoders of all parts and their proofs, sorted."""
    return sorted({header.engine for headers in part_headers(tables) for header in headers if header.engine})


def warnings_of(tables: Tables) -> list[str]:
    """Return the warnings of all parts, and those about what the chat format did to the conversations."""
    headers = [header for own in part_headers(tables) for header in own]
    notes: Counter[str] = sum((header.notes for header in headers), Counter())
    return [*(warning for header in headers for warning in header.warnings), *chat_warnings(notes)]
