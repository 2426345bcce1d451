"""Training recovers: torchrun restarts it after a killed rank, and it skips a damaged checkpoint.

    python -m tests.faults.recover --runs 10 --seed 1

Killed rank: one of two ranks under a real torchrun with --max-restarts 3 gets SIGKILL at a random moment, and the job
must succeed. Damage: a file of the newest checkpoint is damaged at random, and the same command must name it and resume
from the checkpoint before. In both cases, the last checkpoint must equal that of an undisturbed run byte for byte.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.faults.corrupt import KINDS, damage
from tests.faults.kill import PATIENCE_SECONDS, fresh
from tests.faults.kill_targets import ROOT, TRAIN_ITERS, Trainer
from tests.faults.tally import Tally
from tests.forked import launch, preload

NEWEST = f"checkpoints/iter_{TRAIN_ITERS:07d}"


def restarted(target: Trainer, root: Path, expected: dict[str, str], rng: random.Random) -> list[str]:
    """Kill one rank under torchrun and return the problems of the restarted job."""
    folder = fresh(root / "run")
    (step,) = target.steps(folder)
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "--max-restarts", "3", "-m", "megatron_train", *step.arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log.txt").open("w") as log:
        started = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + PATIENCE_SECONDS
    wanted = rng.randrange(4, TRAIN_ITERS)  # wait for the first checkpoint, so that there is something to lose
    while target.progress(folder) < wanted and started.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    ranks = psutil.Process(started.pid).children()
    if len(ranks) != 2:
        return [f"{len(ranks)} ranks were running: {(folder / 'log.txt').read_text()[-300:]}"]
    rng.choice(ranks).kill()
    try:
        code = started.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        started.kill()
        return [f"did not end within {PATIENCE_SECONDS} s of the kill"]
    text = (folder / "log.txt").read_text()
    if code or "resumed from" not in text:
        return [f"did not resume: {text[-300:]}"]
    return [] if target.result(folder) == expected else ["the last checkpoint differs from the undisturbed run"]


def gone_back(target: Trainer, root: Path, expected: dict[str, str], rng: random.Random) -> list[str]:
    """Damage the newest checkpoint, run the same command, and return the problems."""
    folder = root / "finished"
    (step,) = target.steps(folder)
    files = sorted(path for path in (folder / NEWEST).rglob("*") if path.is_file())
    path, kind = rng.choice(files), rng.choice(KINDS)
    if not damage(path, kind, [file for file in files if file != path], rng):
        return []
    run = launch("trainer", step.arguments, folder, step.processes)
    what = f"{path.name} {kind}"
    if run.wait(PATIENCE_SECONDS):
        return [f"{what}: {run.tail(300)}"]
    text = run.tail(100_000)
    if path.name not in text or "going back to checkpoints/iter_0000009" not in text:
        return [f"{what}: not named: {text[-300:]}"]
    return (
        [] if target.result(folder) == expected else [f"{what}: the last checkpoint differs from the undisturbed run"]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="of each kind; a fifth as many restarts by torchrun")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    tally, rng = Tally("recover", given.seed), random.Random(given.seed)
    preload("trainer")
    for target in (Trainer("DP2"), Trainer("TP2", "--tensor_model_parallel_size", "2")):
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            target.prepare(root)
            finished = fresh(root / "finished")
            run = launch("trainer", target.steps(finished)[0].arguments, finished, 2)
            assert run.wait(PATIENCE_SECONDS) == 0, run.tail()
            expected = target.result(finished)
            count = -(-given.runs // 2)
            problems = [p for _ in range(count) for p in gone_back(target, root, expected, rng)]
            tally.add(f"the newest checkpoint damaged, {target.name}", count, problems)
            count = -(-count // 5)
            problems = [p for _ in range(count) for p in restarted(target, root, expected, rng)]
            tally.add(f"a rank killed under torchrun, {target.name}", count, problems)
    return tally.close()


if __name__ == "__main__":
    raise SystemExit(main())
