"""Run tasks on a Ray cluster (`pip install 'oasst-megatron[ray]'`, `build --executor ray`).

Every node must see the output folder and the input files under the same paths.
"""

from pathlib import Path
from typing import Any

from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.plan import BuildError, Task
from pretokenizer.tasks.runner import TaskRunner


def run_on_ray(context: BuildContext, tasks: list[Task], folder: Path, progress: Any) -> None:
    """Run `tasks` on one Ray actor (process) for each CPU of the cluster, or on `--workers` actors if that is above 1.

    Raises BuildError when Ray is not installed, and ValueError for an error that the user can fix, such as bad data.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise BuildError("--executor ray: Ray is not installed; pip install 'oasst-megatron[ray]'") from None
    plan, options, final = context.plan, context.options, context.final  # a loaded tokenizer cannot be sent

    class Worker:
        """One process of the Ray cluster. It loads the tokenizer once and runs many tasks."""

        def __init__(self) -> None:
            self.runner = TaskRunner(BuildContext.load(plan, options, final), folder)

        def run(self, task: Task) -> str | None:
            """Run a task. Return the message of an error that the user can fix, or None for success."""
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
