"""Send SIGKILLs at random moments and restart the same command until it ends. Nothing may be lost or half done.

    python -m tests.faults.kill --runs 100 --seed 1                      # 100 kills of each program
    python -m tests.faults.kill --runs 10 --only trainer --seed 7

After each kill, the project's own checks must find nothing incomplete under a final name, and the same command must
resume. At the end, the files must equal those of an undisturbed run byte for byte. A kill may repeat at most
`save_interval` iterations.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.kill_targets import TARGETS, Step, Target
from tests.faults.tally import Tally
from tests.forked import HangError, Run, launch, preload

MAX_KILLS_A_STEP = 4
PATIENCE_SECONDS = 120.0
ORPHANS_SECONDS = 40.0
"""Seconds in which the other ranks of a killed one must end. Their own timeout is 15 seconds."""


@dataclass
class Outcome:
    """Results of the kills of one target."""

    kills: int = 0
    windows: int = 0
    """Number of kills aimed at the moments in which something is published."""
    finished: int = 0
    """Number of runs that ended and were compared with an undisturbed one."""
    repeated: int = 0
    """Largest number of iterations that a kill made the trainer repeat."""
    problems: list[str] = field(default_factory=list)


def campaign(target: Target, runs: int, rng: random.Random, root: Path) -> Outcome:
    """Kill one target `runs` times. Each time the command ends by itself, start again in a new folder."""
    outcome = Outcome()
    reference = fresh(root / "reference")
    seconds = {}
    for step in target.steps(reference):
        started = time.monotonic()
        run = launch(target.program, step.arguments, reference, step.processes)
        assert run.wait(PATIENCE_SECONDS) == 0, run.tail()
        seconds[step.name] = time.monotonic() - started
    expected = target.result(reference)
    for number in itertools.count():
        if outcome.kills >= runs:
            return outcome
        folder = fresh(root / "run")
        for step in target.steps(folder):
            _harass(target, step, folder, seconds[step.name], runs, rng, outcome)
        if target.result(folder) != expected:
            names = sorted(dict(set(target.result(folder).items()) ^ set(expected.items())))
            outcome.problems.append(f"run {number}: differs from the undisturbed one: {names[:5]}")
        else:
            outcome.finished += 1


def _harass(
    target: Target, step: Step, folder: Path, seconds: float, runs: int, rng: random.Random, outcome: Outcome
) -> None:
    """Kill one command at random moments until it has done its work."""
    for _ in range(rng.randint(1, MAX_KILLS_A_STEP)):
        if outcome.kills >= runs:
            break
        run = launch(target.program, step.arguments, folder, step.processes)
        is_aimed = rng.random() < 0.5
        _wait_for_moment(run, target, step, folder, seconds, is_aimed, rng)
        before = target.progress(folder)
        if run.poll():
            break
        if rng.random() < 0.2:  # one process only: its children, or the other ranks, must end by themselves
            victim = rng.choice([number for number, pid in enumerate(run.pids) if pid not in run.codes])
            run.kill(victim)
            try:
                run.wait(ORPHANS_SECONDS)
                if run.codes[run.pids[victim]] != -signal.SIGKILL:
                    break  # the command ended before the kill
            except HangError as error:
                outcome.problems.append(f"{step.name}: one process was killed: {error}")
        else:
            run.kill()
        outcome.kills += 1
        outcome.windows += is_aimed
        outcome.problems += [f"{step.name}: after a kill: {p}" for p in target.problems(folder)]
        outcome.repeated = max(outcome.repeated, before - target.saved(folder))
    run = launch(target.program, step.arguments, folder, step.processes)
    if run.wait(PATIENCE_SECONDS) and not step.is_done(folder):
        outcome.problems.append(f"{step.name}: the same command does not go on: {run.tail(300)}")
    outcome.problems += [f"{step.name}: at the end: {p}" for p in target.problems(folder)]


def _wait_for_moment(
    run: Run, target: Target, step: Step, folder: Path, seconds: float, is_aimed: bool, rng: random.Random
) -> None:
    """Wait until a random moment of the run. If `is_aimed`, wait until a file is being published."""
    end = time.monotonic() + (rng.uniform(0, seconds) if not is_aimed else 3 * seconds)
    while time.monotonic() < end and not run.poll():
        if is_aimed and target.is_publishing(folder, step):
            time.sleep(rng.uniform(0, target.window_seconds))
            return
        time.sleep(0.0005)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="kills of each program, spread over its variants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(TARGETS), help="one program")
    parser.add_argument("--variants", type=int, help="only the first so many of each program")
    given = parser.parse_args(arguments)
    tally = Tally("kill", given.seed)
    for program, target in _targets(given.only, given.variants):
        share = -(-given.runs // len(TARGETS[program][: given.variants]))
        with tempfile.TemporaryDirectory() as root:
            preload(program)
            target.prepare(Path(root))
            outcome = campaign(target, share, random.Random(f"{given.seed} {target.name}"), Path(root))
        line = f"{outcome.kills} kills ({outcome.windows} aimed at publishing), {outcome.finished} runs bitwise equal"
        line += f", at most {outcome.repeated} iterations repeated" if program == "trainer" else ""
        limit = target.max_repeated
        if outcome.repeated > limit:
            outcome.problems.append(f"{outcome.repeated} iterations repeated, {limit} allowed")
        tally.add(target.name, outcome.kills, outcome.problems, line)
    return tally.close()


def _targets(only: str | None, limit: int | None) -> Iterator[tuple[str, Target]]:
    for program, variants in TARGETS.items():
        if only in (None, program):
            for target in variants[:limit]:
                yield program, target


if __name__ == "__main__":
    raise SystemExit(main())
