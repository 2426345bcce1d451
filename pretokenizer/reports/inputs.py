"""Report which files and fields of each data set were read, and which were not used."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretokenizer.records.choose_files import NO_SPLIT, DatasetFiles
from pretokenizer.records.file_names import split_name
from pretokenizer.reports.blocks import Block, Bullets, Paragraph, Table
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.part_files import PartHeader

_SHARD = re.compile(r"(.*)[-_]\d+[-_]of[-_](\d+)\b")
_MAX_LISTED = 50
"""Maximum number of unused files that stats.md lists for each data set."""


@dataclass(frozen=True)
class InputFile:
    """One input file that was read."""

    path: str
    split: str
    """Name of the split in the file's name, such as `train_sft`; "" if there is none."""
    num_records: int


@dataclass(frozen=True)
class InputReport:
    """The files and fields of one data set: which were read, and which were not used."""

    name: str
    files: list[InputFile]
    left_out: dict[str, str]
    """Path -> reason, for every other file that was found."""
    unused: list[str]
    """Fields of the records that the source ignores."""
    irregular: dict[str, int]
    """Accepted irregularity, such as two messages of one role in a row -> number of conversations."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as the dicts and lists that stats.json and the manifest hold."""
        return {
            "name": self.name,
            "files": [{"path": f.path, "split": f.split, "records": f.num_records} for f in self.files],
            "files_left_out": self.left_out,
            "fields_not_used": self.unused,
            "irregular": self.irregular,
        }


def input_reports(context: BuildContext, headers: Sequence[Sequence[PartHeader]]) -> list[InputReport]:
    """Return the input report of each data set. `headers` has the headers of each data set's part files."""
    by_dataset = zip(context.config.entries, context.plan.datasets, headers, strict=True)
    return [_input_report(entry.name, files, own) for entry, files, own in by_dataset]


def file_warnings(reports: Sequence[InputReport]) -> list[str]:
    """Return warnings about numbered input files (`-00000-of-00002`) that are missing, and about unused files.

    An unused file is named if it may hold training records, because its name has no split.
    """
    warnings = []
    for report in reports:
        count = sum(reason == NO_SPLIT for reason in report.left_out.values())
        if count:
            warnings.append(f"{report.name}: files with records left out ({NO_SPLIT}): {count}; stats.md lists them")
        shards = Counter(match.groups() for file in report.files if (match := _SHARD.match(file.path)))
        for (stem, total), found in shards.items():
            if found < int(total):
                warnings.append(f"{report.name}: {found} of {int(total)} shards of {stem} found; download the others")
    return warnings


def _input_report(name: str, files: DatasetFiles, headers: Sequence[PartHeader]) -> InputReport:
    """Return the input report of one data set, joined from the headers of its part files."""
    records: Counter[str] = sum((header.file_records for header in headers), Counter())
    read = [
        InputFile(str(path), split_name(Path(path.parent.name, path.name)).label, records[str(number)])
        for number, path in enumerate((*files.train, *files.val))
    ]
    unused = sorted({field for header in headers for field in header.unused})
    irregular: Counter[str] = sum((header.irregular for header in headers), Counter())
    return InputReport(name, read, files.left_out, unused, dict(sorted(irregular.items())))


def input_blocks(report: InputReport) -> list[Block]:
    """Return the blocks of the report that list the files and fields of one data set."""
    rows = [[_shown(file.path), file.split or "-", f"{file.num_records:,}"] for file in report.files]
    rows += [[_shown(path), f"not used: {why}", "-"] for path, why in list(report.left_out.items())[:_MAX_LISTED]]
    num_more = len(report.left_out) - _MAX_LISTED
    if num_more > 0:
        rows.append([f"{num_more:,} more files", "not used; stats.json lists them", "-"])
    blocks: list[Block] = [Paragraph(f"{report.name}:"), Table(["file", "split", "records"], rows, num_text_columns=2)]
    if report.unused:
        blocks.append(Paragraph(f"Fields not used: {', '.join(f'`{_shown(name)}`' for name in report.unused)}."))
    if report.irregular:
        blocks.append(Bullets([f"{count:,} conversations: {note}" for note, count in report.irregular.items()]))
    return blocks


def _shown(text: str) -> str:
    """Return a path or field name as one line, with unprintable characters escaped and backticks replaced."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text).replace("`", "'")
