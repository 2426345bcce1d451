import multiprocessing
import os
from pathlib import Path

from pretokenizer.config.settings import RunOptions
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.plan import make_plan
from pretokenizer.tasks.pool import start_workers
from tests.pretokenizer.conftest import make_toy_config, question_records, write_jsonl


def test_workers_exit_at_the_end_of_their_block(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(20))
    plan = make_plan(make_toy_config(tmp_path, ["gsm8k"]), 500)
    before = set(multiprocessing.active_children())
    alone = BuildContext.load(plan, RunOptions(workers=1), tmp_path)
    with start_workers(alone, list(plan.tasks), tmp_path) as pool:
        assert pool is None
    two = BuildContext.load(plan, RunOptions(workers=2), tmp_path)
    with start_workers(two, list(plan.tasks), tmp_path) as pool:
        assert pool is not None
        assert pool.submit(os.getpid).result() != os.getpid()
        workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)
