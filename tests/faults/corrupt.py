"""Damage files of every kind that the project reads: flip a byte, cut off the end, remove the file or swap it.

    python -m tests.faults.corrupt --runs 1000 --seed 1

A reader must refuse a damaged file under a checksum and name it. It may read any other damaged file, or refuse it with
a message that names a file. It must never accept a damaged checksummed file in silence or end with a traceback.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.corrupt_targets import make_readers
from tests.faults.tally import Tally

KINDS = ("flipped", "truncated", "missing", "swapped", "zeroed", "longer")


@dataclass(frozen=True)
class Reader:
    """A function that reads the files of a folder. It raises ValueError or OSError, or returns problems."""

    name: str
    folder: Path
    read: Callable[[Path], list[str] | None]
    covers: Callable[[Path], bool]
    """Return whether one of the checksums that the reader verifies covers a file."""


def damage(path: Path, kind: str, others: list[Path], rng: random.Random) -> bool:
    """Damage one file in the way `kind`. Return False when its bytes stay the same."""

    before = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "swapped":
        other = rng.choice(others)
        path.write_bytes(other.read_bytes())
    elif not before:
        return False
    elif kind == "flipped":
        data = bytearray(before)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif kind == "truncated":
        path.write_bytes(before[: rng.randrange(len(before))])
    elif kind == "zeroed":
        start = rng.randrange(len(before))
        end = min(len(before), start + rng.choice((1, 64, 4096)))
        path.write_bytes(before[:start] + bytes(end - start) + before[end:])
    else:
        path.write_bytes(before + rng.randbytes(rng.choice((1, 100))))
    return not path.exists() or path.read_bytes() != before


def one(reader: Reader, rng: random.Random) -> tuple[str, str]:
    """Damage one file, read the folder, and restore the file. Return the outcome and a description."""
    files = sorted(path for path in reader.folder.rglob("*") if path.is_file())
    path, kind = rng.choice(files), rng.choice(KINDS)
    original = path.read_bytes()
    name = path.relative_to(reader.folder)
    try:
        if not damage(path, kind, [other for other in files if other != path] or files, rng):
            return "unchanged", ""
        return _outcome(reader, path, f"{reader.name}: {name} {kind}")
    finally:
        path.write_bytes(original)


def _outcome(reader: Reader, path: Path, what: str) -> tuple[str, str]:
    try:
        problems = reader.read(reader.folder)
    except (ValueError, OSError) as error:
        problems = [str(error)]
    except BaseException as error:  # a panic in Rust is a BaseException
        if isinstance(error, KeyboardInterrupt):
            raise
        return "crashed", f"{what}: {type(error).__name__}: {error}"
    if not problems:
        return ("accepted in silence" if reader.covers(path) else "read"), what
    said = "; ".join(problems)
    names = (path.name, str(reader.folder)) if not reader.covers(path) else (path.name, path.stem.split("-text")[0])
    return ("refused" if any(name in said for name in names) else "refused without a name"), f"{what}: {said}"


def campaign(readers: list[Reader], runs: int, rng: random.Random, tally: Tally) -> None:
    """Damage files `runs` times, spread evenly over the readers."""
    for number, reader in enumerate(readers):
        problems: list[str] = []
        counts: Counter[str] = Counter()
        share = runs // len(readers) + (number < runs % len(readers))
        while counts.total() < share:
            outcome, said = one(reader, rng)
            if outcome == "unchanged":
                continue
            counts[outcome] += 1
            if outcome not in ("refused", "read"):
                problems.append(f"{outcome}: {said[:600]}")
        line = f"{share} damages, " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        tally.add(reader.name, share, problems, line)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="shards, parts, records, tokenizers or weights")
    given = parser.parse_args(arguments)
    tally = Tally("corrupt", given.seed)
    root = Path(tempfile.mkdtemp())
    try:
        readers = [Reader(*parts) for parts in make_readers(root, given.only)]
        campaign(readers, given.runs, random.Random(given.seed), tally)
    finally:
        shutil.rmtree(root)
    return tally.close()


if __name__ == "__main__":
    raise SystemExit(main())
