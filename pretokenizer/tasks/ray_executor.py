"""Doing tasks on a Ray cluster (`pip install 'oasst-megatron[ray]'`, `build --executor ray`).

The output folder and the input files must be visible from every node under the same paths.
"""

from pathlib import Path
from typing import Any

from pretokenizer.config.settings import RunOptions
from pretokenizer.tasks.plan import Plan, Task


def run_on_ray(plan: Plan, tasks: list[Task], folder: Path, options: RunOptions, progress: Any) -> None:
    """Run `tasks` on actors, as many as the cluster's CPUs or `workers` if that is more than 1."""
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        from pretokenizer.tasks.work_folder import BuildError

        raise BuildError("--executor ray: Ray is not installed; pip install 'oasst-megatron[ray]'") from None
    from pretokenizer.tasks.runner import TaskRunner

    class Worker:
        """One process of the cluster, with its tokenizer loaded once."""

        def __init__(self) -> None:
            self.runner = TaskRunner(plan, folder, options.strict)

        def run(self, task: Task) -> str | None:
            """Do a task; the text of an error that is the user's to mend."""
            try:
                self.runner.run(task)
            except ValueError as error:
                return str(error)
            return None

    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        available = int(ray.cluster_resources().get("CPU", 1))
        count = max(1, min(options.workers if options.workers > 1 else available, len(tasks)))
        actor = ray.remote(num_cpus=1)(Worker)
        pool = ActorPool([actor.remote() for _ in range(count)])
        for error in pool.map_unordered(lambda worker, task: worker.run.remote(task), tasks):
            if error:
                raise ValueError(error)
            progress.update()
    finally:
        if started_here:
            ray.shutdown()
