"""Run lm-eval on an exported folder, with the prompts and token ids that the model was trained on.

record = evaluate(Path("my-model"), ["arc_challenge", "my_task.yaml"], Options(limit=100))

The chat template renders whole prompts, BOS included where the template has one. So lm-eval must add no BOS of its own.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from examples.evaluation.leaderboard import LEADERBOARD
from pretokenizer.config.yaml_config import suggest


class TaskNameError(ValueError):
    """A task is named that neither lm-eval nor a task file defines."""


@dataclass(frozen=True)
class Options:
    """Settings of an evaluation with lm-eval."""

    limit: int | None = None
    """Number of questions to ask of each task. None asks all of them."""
    num_few_shot: int | None = None
    """Number of solved examples in each prompt. None takes the leaderboard's number, or the task's own."""
    batch_size: int = 8
    """Number of prompts that are evaluated together."""
    plain: bool = False
    """Whether prompts are plain text although the folder has a chat template, as on the leaderboard of 2023."""


def require_harness() -> None:
    """Raise ValueError when lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("lm-eval is not installed; run: pip install 'oasst-megatron[eval]'")


def evaluate(folder: Path, tasks: list[str], options: Options) -> dict[str, Any]:
    """Evaluate the exported model in `folder`, and return the results of all tasks in lm-eval's layout.

    A task is a name, or the path of a task file (.yaml). Raises TaskNameError for an unknown task, and ValueError when
    the folder holds no model, lm-eval is missing, or the data of a task cannot be fetched.
    """
    require_harness()
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: has no config.json; export a model with python -m checkpoint_convert to-hf")
    stay_offline_if_needed()
    manager, names = task_manager(tasks)
    model, has_template = load(folder, options)
    merged: dict[str, Any] = {"results": {}, "n-shot": {}, "versions": {}, "n-samples": {}}
    by_shots: dict[int | None, list[str]] = {}
    for name in names:
        by_shots.setdefault(shots_of(name, options), []).append(name)
    for shots, group in by_shots.items():
        for key, found in run_tasks(model, manager, group, replace(options, num_few_shot=shots), has_template).items():
            merged[key] |= found
    return {
        "model_name": folder.name,
        "date": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        "tasks": names,
        "limit": options.limit,
        "prompts": "the model's chat template" if has_template else "no chat template",
        **merged,
    }


def stay_offline_if_needed() -> None:
    """Tell the hub's client to use only its cache when the hub cannot be reached, instead of retrying for minutes.

    This works only before the client is imported. Behind a proxy the hub is assumed to answer.
    """
    proxies = {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    if "HF_HUB_OFFLINE" in os.environ or proxies & set(os.environ):
        return
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def shots_of(task: str, options: Options) -> int | None:
    """Return the number of solved examples in a task's prompts: the user's number, else the leaderboard's, else None.

    None leaves the number to lm-eval's task file.
    """
    if options.num_few_shot is not None:
        return options.num_few_shot
    return LEADERBOARD[task].num_few_shot if task in LEADERBOARD else None


def task_manager(tasks: list[str]) -> tuple[Any, list[str]]:
    """Return lm-eval's task manager, which also knows the task files in `tasks`, and the names of all `tasks`.

    Raises TaskNameError for an unknown task.
    """
    from lm_eval.tasks import TaskManager

    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    own = {str(path): name_in(path) for path in files}
    manager = TaskManager(include_path=[str(path.parent) for path in files] or None)
    names = list(dict.fromkeys(own.get(task, task) for task in tasks))
    for name in names:
        if name not in manager.task_index:
            known = [*LEADERBOARD, *manager.task_index]
            raise TaskNameError(f"--tasks: lm-eval has no task {name!r}{suggest(name, known)}")
    return manager, names


def name_in(path: Path) -> str:
    """Return the name of the task in a task file. Raises TaskNameError for a file without one."""
    try:
        # The tag !function of task files names Python code, which safe_load refuses; only the name is read here.
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("task:", "group:")):
                return str(yaml.safe_load(line.partition(":")[2]))
    except OSError as error:
        raise TaskNameError(f"{path}: cannot be read: {error.strerror}") from None
    raise TaskNameError(f"{path}: is no task file of lm-eval: it has no line `task: NAME`")


def load(folder: Path, options: Options) -> tuple[Any, bool]:
    """Return lm-eval's model of a folder, and whether prompts are rendered with the folder's chat template.

    Raises ValueError when lm-eval would give the model other ids than the chat template does.
    """
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM

    from megatron_train.parallel.device import uses_cuda

    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    has_template = bool(tokenizer.chat_template) and not options.plain
    model = HFLM(
        pretrained=str(folder),
        tokenizer=tokenizer,
        device="cuda" if uses_cuda() else "cpu",
        batch_size=options.batch_size,
        parallelize=uses_cuda() and torch.cuda.device_count() > 1,
        add_bos_token=False if has_template else None,
        prefix_token_id=first_id(tokenizer),
    )
    if has_template:
        check_ids(model, tokenizer)
    return model, has_template


def first_id(tokenizer: Any) -> int:
    """Return the token id that lm-eval puts before a text without a prompt.

    It is BOS if the tokenizer adds one, else EOS, the end of a turn. lm-eval's own choice is BOS, which a model of this
    project may never have seen.
    """
    ids = tokenizer("a")["input_ids"]
    return int(ids[0]) if ids[0] == tokenizer.bos_token_id else int(tokenizer.eos_token_id)


def check_ids(model: Any, tokenizer: Any) -> None:
    """Raise ValueError when lm-eval gives the model other ids for a chat than the chat template does."""
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    expected = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    text = model.apply_chat_template(chat)
    given = model.tok_encode(text)
    batch = model.tok_batch_encode([text])[0][0].tolist()
    if not expected == given == batch:
        raise ValueError(
            f"{model.tokenizer.name_or_path}: lm-eval encodes a chat as {given}, its template as {expected}"
        )


def run_tasks(
    model: Any, manager: Any, tasks: list[str], options: Options, has_template: bool
) -> dict[str, dict[str, Any]]:
    """Run tasks with lm-eval, all with the number of examples in `options`. Return four tables of its results.

    Raises ValueError when the data of a task cannot be fetched.
    """
    import datasets
    from lm_eval import simple_evaluate

    try:
        found = simple_evaluate(
            model,
            tasks=tasks,
            num_fewshot=options.num_few_shot,
            limit=options.limit,
            apply_chat_template=has_template,
            task_manager=manager,
            log_samples=False,
        )
    except (OSError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"the data of {', '.join(tasks)} cannot be read: {reason}; connect to the hub, or set HF_HOME to a "
            f"cache that holds them"
        ) from None
    return {key: found.get(key, {}) for key in ("results", "n-shot", "versions", "n-samples")}
