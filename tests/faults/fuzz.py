"""Coverage-guided fuzzing of the readers with atheris (`pip install 'oasst-megatron[fuzz]'`).

    python -m tests.faults.fuzz --seconds 600                 # every target for ten minutes
    python -m tests.faults.fuzz --seconds 600 --only pickle

An input that raises anything but ValueError or OSError is saved in tests/faults/corpus/TARGET, which makes it a
regression test (test_faults.py). Without atheris, the same targets read randomly changed inputs, without coverage.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from tests.faults.fuzz_targets import ALLOWED, TARGETS, seeds
from tests.faults.tally import Tally

CORPUS = Path(__file__).parent / "corpus"
MAX_BYTES = 1 << 14


def fuzz_with_atheris(target: str, seconds: int, seed: int) -> tuple[int, list[str]]:
    """Fuzz in a new process, because libFuzzer ends its process. Return the number of inputs and the findings."""
    with tempfile.TemporaryDirectory() as name:
        found, start = Path(name) / "found", Path(name) / "start"
        found.mkdir()
        start.mkdir()
        for number, data in enumerate(seeds(target)):
            (start / str(number)).write_bytes(data)
        flags = [f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={MAX_BYTES}", "-print_final_stats=1"]
        flags += [f"-artifact_prefix={found}/", "-rss_limit_mb=4096", "-timeout=20", str(start)]
        command = [sys.executable, "-m", "tests.faults.fuzz", "--child", target, *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 300)
        text = done.stderr + done.stdout
        counts = re.findall(r"stat::number_of_executed_units:\s*(\d+)|^#(\d+)\s", text, re.MULTILINE)
        tried = max((int(a or b) for a, b in counts), default=0)
        problems = [_keep(target, path.read_bytes(), text) for path in sorted(found.iterdir())]
        if done.returncode and not problems:
            problems = [text[-1500:]]
    return tried, problems


def _keep(target: str, data: bytes, text: str) -> str:
    name = hashlib.sha256(data).hexdigest()[:16]
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(data)
    traceback = text[text.rfind("Uncaught Python exception") :][:1500] if "Uncaught Python" in text else text[-600:]
    return f"corpus/{target}/{name}: {traceback}"


def run_child(target: str, flags: list[str]) -> None:
    """Run libFuzzer in this process, with the project's code instrumented."""
    import atheris

    if target in ("pickle", "safetensors"):
        import torch  # noqa: F401 - imported first, because instrumenting it would take minutes
    with atheris.instrument_imports(include=["pretokenizer", "megatron_train", "checkpoint_convert", "json", "pickle"]):
        _ignore(target, seeds(target)[0])  # the first call imports the reader's modules

    def one(data: bytes) -> None:
        with contextlib.suppress(ALLOWED):
            TARGETS[target](data)

    atheris.Setup([sys.argv[0], *flags], one)
    atheris.Fuzz()


def _ignore(target: str, data: bytes) -> None:
    with contextlib.suppress(ALLOWED):
        TARGETS[target](data)


def fuzz_blindly(target: str, seconds: float, seed: int) -> tuple[int, list[str]]:
    """Fuzz without coverage, with random changes of good inputs. Return the number of inputs and the findings."""
    rng, start, tried = random.Random(f"{seed} {target}"), seeds(target), 0
    problems: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(problems) < 3:
        data = mutated(bytearray(rng.choice(start)), rng)
        tried += 1
        try:
            TARGETS[target](data)
        except ALLOWED:
            pass
        except BaseException as error:
            problems.append(_keep(target, data, f"{type(error).__name__}: {error}"))
    return tried, problems


def mutated(data: bytearray, rng: random.Random) -> bytes:
    """Return the bytes with a few flipped, set to limits, repeated, removed or inserted."""
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            width = rng.choice((1, 2, 4, 8))
            data[place : place + width] = rng.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * width
        elif kind == 2:
            data[place:place] = data[place : place + rng.randrange(1, 40)] * rng.choice((1, 2, 50))
        elif kind == 3:
            del data[place : place + rng.randrange(1, 40)]
        else:
            data[place:place] = rng.choice((b'"', b"{", b"[", b"]", b"}", b"\\u", b"1e9", b"-", b"*a", b"&a ", b"."))
    return bytes(data[:MAX_BYTES])


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--child"]:
        run_child(arguments[1], arguments[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(TARGETS))
    given = parser.parse_args(arguments)
    tally = Tally("fuzz", given.seed)
    guided = find_spec("atheris") is not None
    for target in [given.only] if given.only else TARGETS:
        fuzz = fuzz_with_atheris if guided else fuzz_blindly
        tried, problems = fuzz(target, given.seconds, given.seed)
        how = "coverage-guided" if guided else "blind (atheris is not installed)"
        tally.add(target, tried, problems, f"{tried:,} inputs in {given.seconds} s, {how}")
    return tally.close()


if __name__ == "__main__":
    sys.exit(main())
