"""The programs to kill: their variants as a user's commands, and the checks after a kill."""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tests.forked import LOG, launch, preload
from tests.paths import ROOT

SAMPLE_MODEL = ROOT / "examples/data/tokenizer/sample.model"
SAVE_INTERVAL, TRAIN_ITERS = 3, 12


@dataclass(frozen=True)
class Step:
    """One command of a run."""

    name: str
    arguments: list[str]
    output: str
    """The step's final name, below the run's folder."""
    processes: int = 1

    def is_done(self, folder: Path) -> bool:
        """Return whether the final name exists, which means that the kill came after the work."""
        return (folder / self.output).exists()


class Target(ABC):
    """A program in one of its variants. The methods take the folder of a run."""

    program: str
    window_seconds = 0.05
    """About how many seconds publishing takes."""
    max_repeated = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, root: Path) -> None:  # noqa: B027 - some programs need none
        """Write the inputs beside the folders of the runs."""

    @abstractmethod
    def steps(self, folder: Path) -> list[Step]:
        """Return the commands of a run."""

    @abstractmethod
    def is_publishing(self, folder: Path, step: Step) -> bool:
        """Return whether a file is about to get its final name."""

    @abstractmethod
    def problems(self, folder: Path) -> list[str]:
        """Return the problems of results under final names, which must be complete."""

    @abstractmethod
    def result(self, folder: Path) -> dict[str, str]:
        """Return the SHA-256 of the files of the result, by name."""

    def progress(self, folder: Path) -> int:
        """Return the number of iterations done. Programs without iterations return 0."""
        return 0

    def saved(self, folder: Path) -> int:
        """Return the iteration from which the next run resumes."""
        return 0


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Pretokenizer(Target):
    """The command `build` with one or two workers, or in parts that `merge` joins."""

    program = "pretokenizer"
    window_seconds = 0.1

    def __init__(self, name: str, workers: int, num_parts: int = 0) -> None:
        super().__init__(name)
        self.workers, self.num_parts = workers, num_parts

    def prepare(self, root: Path) -> None:
        write_records(root / "data")
        section = {
            "faults": {
                "datasets": ["gsm8k", "alpaca", "joke", "messages", "vicuna"],
                "data_dir": str(root / "data"),
                "vocab_file": str(SAMPLE_MODEL),
                "output_dir": "shards",
                "filename_prefix": "f",
                "dedup": "exact",
            }
        }
        (root / "configs").mkdir()
        (root / "configs/faults.yaml").write_text(yaml.safe_dump(section))
        self.flags = ["--configs", "faults", "--config_dir", str(root / "configs"), "--workers", str(self.workers)]

    def steps(self, folder: Path) -> list[Step]:
        build = ["build", *self.flags]
        if not self.num_parts:
            return [Step("build", build, "shards")]
        names = [f"shards.parts/part-{i:05d}-of-{self.num_parts:05d}" for i in range(self.num_parts)]
        parts = [
            Step(f"part {i}", [*build, "--part", str(i), "--num_parts", str(self.num_parts)], name)
            for i, name in enumerate(names)
        ]
        return [*parts, Step("merge", ["merge", *names, "--output_dir", "shards"], "shards")]

    def is_publishing(self, folder: Path, step: Step) -> bool:
        final = folder / step.output
        building = final.parent / (final.name + (".merging" if step.name == "merge" else ".building/output"))
        return building.exists()

    def problems(self, folder: Path) -> list[str]:
        from pretokenizer.merge import check_part
        from pretokenizer.output.check import check_folder

        found = check_folder(folder / "shards")[0] if (folder / "shards").exists() else []
        for part in folder.glob("shards.parts/part-*-of-*"):
            if part.suffix == "":
                check_part(part)
        return found

    def result(self, folder: Path) -> dict[str, str]:
        return digests(folder / "shards")


def write_records(data: Path) -> None:
    """Write five small data sets in eleven files. The same random words are drawn each time."""
    rng = random.Random(5)

    def text(words: int) -> str:
        return " ".join(f"{rng.choice('abcdefgh')}{rng.randrange(500)}" for _ in range(words))

    makers: dict[str, Callable[[], Any]] = {
        "gsm8k/train": lambda: {"question": text(20), "answer": text(40)},
        "gsm8k/test": lambda: {"question": text(20), "answer": text(40)},
        "alpaca/train": lambda: {"instruction": text(15), "input": text(3), "output": text(60)},
        "joke/a": lambda: {"joke": text(10), "explaination": text(30)},
        "messages/a": lambda: {"prompt": text(30), "response": text(30)},
        "vicuna/a": lambda: {"conversations": [{"from": f, "value": text(9)} for f in ("human", "gpt")]},
    }
    for name, make in makers.items():
        for number in range(2):
            path = data / f"{name}-0000{number}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(make()) + "\n" for _ in range(400)))


class Trainer(Target):
    """The trainer on two data- or tensor-parallel ranks, saving every third iteration."""

    program = "trainer"
    window_seconds = 0.4

    def __init__(self, name: str, *flags: str) -> None:
        super().__init__(name)
        self.flags = list(flags)
        # With --async_save, the previous checkpoint may not yet be written when the next one is due.
        self.max_repeated = SAVE_INTERVAL * (2 if "--async_save" in flags else 1)

    def prepare(self, root: Path) -> None:
        write_shards(root)
        write_model(root / "model.yaml")

    def steps(self, folder: Path) -> list[Step]:
        settings = {
            "train_data_path": "../data/toy",
            "model": "../model.yaml",
            "save": "checkpoints",
            "train_iters": TRAIN_ITERS,
            "save_interval": SAVE_INTERVAL,
            "save_total_limit": 2,
            "seq_length": 48,
            "micro_batch_size": 1,
            "global_batch_size": 4,
            "lr": 1e-3,
            "hidden_dropout": 0.1,
            "distributed_timeout_minutes": 0.25,
            "log_interval": 1,
        }
        flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        output = f"checkpoints/iter_{TRAIN_ITERS:07d}"
        return [Step("train", [*flags, *self.flags], output, processes=2)]

    def is_publishing(self, folder: Path, step: Step) -> bool:
        return any((folder / "checkpoints").glob(".iter_*.staging"))

    def problems(self, folder: Path) -> list[str]:
        from megatron_train.checkpoint.folder import CheckpointError, check_folder, find_checkpoint

        root, found = folder / "checkpoints", []
        for path in root.glob("iter_*"):
            try:
                check_folder(path)
            except CheckpointError as error:
                found.append(str(error))
        if any(root.glob("iter_*")) and (root / "latest_checkpointed_iteration.txt").is_file():
            find_checkpoint(root)
        return found

    def result(self, folder: Path) -> dict[str, str]:
        checkpoint = digests(folder / f"checkpoints/iter_{TRAIN_ITERS:07d}")
        return {**checkpoint, "losses": str(self._losses(folder))}

    def progress(self, folder: Path) -> int:
        return max(self._losses(folder), default=0)

    def saved(self, folder: Path) -> int:
        saved = [int(p.name.removeprefix("iter_")) for p in (folder / "checkpoints").glob("iter_*")]
        return max(saved, default=0)

    def _losses(self, folder: Path) -> dict[int, float]:
        """Return the last reported loss of each iteration. Lines that a kill cut off are ignored."""
        path, losses = folder / "checkpoints/metrics.jsonl", {}
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            losses[record["iteration"]] = record.get("lm_loss", losses.get(record["iteration"]))
        return losses


def write_shards(root: Path) -> None:
    """Write the shards `data/toy` with 60 documents."""
    from tests.conftest import toy_documents, write_shard

    (root / "data").mkdir()
    write_shard(root / "data/toy", toy_documents(60))


def write_model(path: Path) -> None:
    """Write a model that is large enough for a save to take a moment."""
    from tests.conftest import TINY_LLAMA

    replace(TINY_LLAMA, num_layers=2, vocab_size=2048, padded_vocab_size=2048).save(path)


class Converter(Target):
    """The command `from-hf` or `to-hf`. It skips the final comparison, which writes nothing."""

    program = "converter"
    window_seconds = 0.15

    def __init__(self, name: str, *arguments: str) -> None:
        super().__init__(name)
        self.arguments = list(arguments)

    def prepare(self, root: Path) -> None:
        write_hugging_face_folder(root)
        preload("converter")
        imported = launch("converter", ["from-hf", "hf", "base", "--no_verify"], root)
        assert imported.wait(60) == 0, imported.tail()
        (root / LOG).unlink()

    def steps(self, folder: Path) -> list[Step]:
        return [Step(self.arguments[0], [*self.arguments, "--no_verify"], "out")]

    def is_publishing(self, folder: Path, step: Step) -> bool:
        return any(folder.glob(".out.staging")) or any((folder / "out").glob(".release.staging"))

    def problems(self, folder: Path) -> list[str]:
        from pretokenizer.files.checksums import verify_sha256sums

        finals = [path for path in (folder / "out/release", folder / "out") if path.exists()]
        if not finals or (self.arguments[0] == "from-hf" and finals[0].name != "release"):
            return []
        return verify_sha256sums(finals[0])

    def result(self, folder: Path) -> dict[str, str]:
        return digests(folder / "out")


def write_hugging_face_folder(root: Path) -> None:
    """Write `hf`, a Llama of about 40 MB with the sample tokenizer."""
    import subprocess
    import sys

    sizes = ("--hidden_size", "256", "--num_hidden_layers", "8", "--intermediate_size", "1024")
    heads = ("--num_attention_heads", "4", "--num_key_value_heads", "2")
    command = [sys.executable, str(ROOT / "examples/make_tiny_llama.py"), str(root / "hf"), *sizes, *heads]
    subprocess.run([*command, "--tokenizer", str(SAMPLE_MODEL)], check=True, capture_output=True, cwd=ROOT)


TARGETS: dict[str, list[Target]] = {
    "pretokenizer": [
        Pretokenizer("pretokenizer, 1 worker", 1),
        Pretokenizer("pretokenizer, 2 workers", 2),
        Pretokenizer("pretokenizer, parts and merge", 1, num_parts=2),
    ],
    "trainer": [
        Trainer("trainer, DP2, saves sync", "--tensor_model_parallel_size", "1"),
        Trainer("trainer, DP2, saves async", "--async_save"),
        Trainer("trainer, TP2, saves sync", "--tensor_model_parallel_size", "2"),
        Trainer("trainer, TP2, saves async", "--tensor_model_parallel_size", "2", "--async_save"),
    ],
    "converter": [
        Converter("converter, from-hf", "from-hf", "../hf", "out"),
        Converter("converter, to-hf", "to-hf", "../base", "out", "--max_shard_size", "10MB"),
    ],
}
