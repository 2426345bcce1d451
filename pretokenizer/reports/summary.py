"""Print the last lines of a build: what the output folder holds, and the warnings."""

from pathlib import Path

from pretokenizer.files.manifest import DataManifest


def print_summary(manifest: DataManifest, folder: Path) -> None:
    """Print the numbers of documents and tokens in a finished output folder, and the warnings of its build."""
    print(f"finished: {folder}")
    for split, counts in manifest.splits.items():
        print(
            f"  {split}: {counts.documents:,} documents, {counts.tokens:,} tokens  ({folder / counts.prefix}-text.bin)"
        )
        for dataset in counts.datasets:
            skipped = ", ".join(f"{count:,} {reason}" for reason, count in dataset.skipped.items())
            print(
                f"    {dataset.name}: {dataset.documents:,} documents" + (f" (left out: {skipped})" if skipped else "")
            )
    for engine in manifest.reports.get("engines", []):
        print(f"  encoded by {engine}")
    duplicates = manifest.reports.get("duplicates", {})
    if duplicates.get("leaked") and not duplicates.get("removed"):
        print(f"  warning: {duplicates['leaked']} val documents also occur in train; --dedup exact leaves them out")
    for warning in manifest.reports.get("warnings", []):
        print(f"  warning: {warning}")
    print(f"  report: {folder / 'stats.md'} (as a page: stats.html)")
