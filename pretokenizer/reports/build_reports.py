"""Collect the figures of a build that stats.md, stats.json and the manifest show."""

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
    """Reason -> number of bad records."""
    examples: list[str]
    """The first bad records, each as `file:line: reason`."""


@dataclass(frozen=True)
class BuildReports:
    """All figures of a build. An integer key is the index of a data set among the configuration's entries."""

    stats: dict[str, list[DatasetStats]]
    """Split (`train`, and `val` if it has documents) -> statistics of each data set."""
    records: list[RecordCounts]
    """Number of records of each data set by outcome: train, val, left out, or bad."""
    lengths: dict[str, LengthReport]
    """Split -> figures about the lengths of its documents."""
    engines: list[str]
    """Descriptions of the encoders that were used, each with the proof that its token ids are right."""
    warnings: list[str]
    bad_records: dict[int, BadRecords]
    duplicates: DuplicateReport
    near_duplicates: NearDuplicateReport | None
    """Number and examples of near-duplicates; None without --near_duplicates."""
    contaminated: dict[int, tuple[str, int]]
    """Data set index -> (name, number of documents with a test question); empty without --decontaminate. The number
    counts all documents of the train files, before they are split and drawn."""
    inputs: list[InputReport]
    """Files and fields of each data set that were read or not used."""
    files: list[list[str]]
    """Paths of the input files of each data set. A document's origin names its file by the index in this list."""

    def for_manifest(self) -> dict[str, Any]:
        """Return the figures that the manifest records, as plain data."""
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
    """Return data set index -> bad records, for each data set that has any."""
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
    """Return data set index -> (name, number of documents with a test question); empty without --decontaminate.

    The number counts all documents of the data set's train files, before they are split and drawn.
    """
    if not context.config.decontaminate:
        return {}
    entries = zip(context.config.entries, tables, strict=True)
    return {number: (entry.name, int(table.contaminated.sum())) for number, (entry, (table, _)) in enumerate(entries)}


def engines_of(tables: Tables) -> list[str]:
    """Return the sorted descriptions of the encoders of all parts, which say how their token ids were proved right."""
    return sorted({header.engine for headers in part_headers(tables) for header in headers if header.engine})


def warnings_of(tables: Tables) -> list[str]:
    """Return the warnings in the headers of all parts, and those about replies or messages that the template changes.

    A warning that several parts have is repeated.
    """
    headers = [header for own in part_headers(tables) for header in own]
    notes: Counter[str] = sum((header.notes for header in headers), Counter())
    return [*(warning for header in headers for warning in header.warnings), *chat_warnings(notes)]
