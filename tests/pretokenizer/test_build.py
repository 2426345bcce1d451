"""A build gives the same bytes however it runs and resumes, and does not replace another build's output."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretokenizer import build as build_module
from pretokenizer.build import build
from pretokenizer.config.settings import RunOptions
from pretokenizer.encode.encoder import REFERENCE_ENV
from pretokenizer.files.manifest import DataManifest
from pretokenizer.files.publish import BusyError
from pretokenizer.files.shard import ShardReader
from pretokenizer.records.json_text import RecordError
from pretokenizer.tasks import plan as plan_module
from pretokenizer.tasks import runner as tasks
from pretokenizer.tasks.plan import BuildError, make_plan
from pretokenizer.tasks.work_folder import work_folder, work_path
from pretokenizer.tokenizer.base import Tokenizer
from tests.paths import ROOT
from tests.pretokenizer.conftest import BuildToy, make_toy_config, question_records, write_jsonl

SAME = (
    "-text.bin",
    "-text.idx",
    "-role.bin",
    "-role.idx",
    "_origin.npy",
    "_stats.txt",
    "special_tokens.json",
    ".jsonl",
)
DATASETS: list[Any] = ["gsm8k", {"messages": {"val_split": 0.3}}, {"oa_leet10k": {"val_split": 0.2, "fraction": 0.5}}]


def toy_data(folder: Path) -> None:
    """Write three data sets of a few dozen records."""
    write_jsonl(folder / "gsm8k" / "train.jsonl", question_records(40))
    write_jsonl(folder / "gsm8k" / "test.jsonl", question_records(5))
    write_jsonl(
        folder / "messages" / "train.jsonl",
        [
            {"messages": [{"role": "user", "content": f"Hi {i}"}, {"role": "assistant", "content": "Ho! " * i}]}
            for i in range(1, 30)
        ],
    )
    leet = [{"INSTRUCTION": f"Do {i}", "RESPONSE": f"Done {i} <|im_end|> é" if i % 7 else " "} for i in range(50)]
    write_jsonl(folder / "oa_leet10k" / "a.jsonl", leet)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of the files whose bytes do not depend on how a build runs, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name.endswith(SAME)}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cut files into pieces of 500 bytes, so that toy data makes many tasks."""
    monkeypatch.setattr(plan_module, "CHUNK_BYTES", 500)
    monkeypatch.setattr(build_module, "make_plan", lambda config: make_plan(config, 500))
    yield


@pytest.fixture
def reference_bytes(build_toy: BuildToy, tmp_path: Path) -> dict[str, bytes]:
    """Return the files of a build with one process and one task for each input file."""
    toy_data(tmp_path / "data")
    _, folder = build_toy(DATASETS, output_dir=str(tmp_path / "reference"), write_json=True)
    shutil.move(folder, tmp_path / "moved")
    (tmp_path / "reference_bytes").mkdir()
    return contents(tmp_path / "moved")


def without_titles(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the contents without the title of the published reports, which names the folder."""
    return {n: b"\n".join(data.split(b"\n")[2:]) if n.endswith("_stats.txt") else data for n, data in files.items()}


def test_files_and_ids_of_a_build(build_toy: BuildToy, tmp_path: Path, sample_tokenizer: Tokenizer) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(3))
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(4)[3:])
    manifest, folder = build_toy(["gsm8k"])
    assert {path.name for path in folder.iterdir()} >= {
        "toy-train-text.bin",
        "toy-val-role.idx",
        "toy-train_stats.txt",
        "stats.md",
        "stats.json",
        "special_tokens.json",
        "manifest.json",
        "tokenizer",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    text = ShardReader(folder / "toy-train-text")
    first = "<|im_start|>user\nWhat is 0 plus 0?<|im_end|>\n<|im_start|>assistant\nIt is 0.\n#### 0<|im_end|>\n"
    assert text[0].tolist() == sample_tokenizer.encode(first)
    roles = ShardReader(folder / "toy-train-role")[0].tolist()
    question = len(sample_tokenizer.encode("<|im_start|>user\nWhat is 0 plus 0?<|im_end|>\n"))
    assert roles == [1] * question + [2] * (len(text[0]) - question)
    assert manifest.splits["train"].documents == 3 and manifest.splits["val"].documents == 1
    assert (manifest.eos_token_id, manifest.pad_token_id, manifest.vocab_size) == (3006, 3004, 3007)
    assert set(manifest.inputs) >= {str(tmp_path / "data/gsm8k/train.jsonl"), str(tmp_path / "data/gsm8k/test.jsonl")}
    assert (folder / "special_tokens.json").read_text() == json.dumps(sample_tokenizer.special_tokens)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [1, 3])
def test_same_bytes_for_any_number_of_workers_and_pieces(
    reference_bytes: dict[str, bytes], build_toy: BuildToy, workers: int
) -> None:
    _, folder = build_toy(DATASETS, RunOptions(workers=workers), write_json=True)
    assert without_titles(contents(folder)) == without_titles(reference_bytes)


def test_same_bytes_without_the_fast_engine(
    reference_bytes: dict[str, bytes], build_toy: BuildToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REFERENCE_ENV, "reference")
    manifest, folder = build_toy(DATASETS, write_json=True)
    assert without_titles(contents(folder)) == without_titles(reference_bytes)
    assert manifest.reports["engines"] == ["sentencepiece (the reference; PRETOKENIZER_ENGINE=reference)"]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("killed_after", [0, 1, 5, 11])
def test_a_killed_build_resumes_after_its_last_part(
    reference_bytes: dict[str, bytes],
    build_toy: BuildToy,
    monkeypatch: pytest.MonkeyPatch,
    killed_after: int,
    tmp_path: Path,
) -> None:
    done: list[int] = []
    run = tasks.TaskRunner.run

    def run_then_die(self: tasks.TaskRunner, task: Any) -> None:
        if len(done) == killed_after:
            (tmp_path / "out.building/parts" / f"part-{task.index:05d}-00.tokens").write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(task.index)
        run(self, task)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tasks.TaskRunner, "run", run_then_die)
        build_toy(DATASETS, write_json=True)
    assert not (tmp_path / "out").exists()
    written: list[int] = []
    run_task = tasks.TaskRunner._run

    def count(self: tasks.TaskRunner, task: Any, *arguments: Any) -> None:
        written.append(task.index)
        run_task(self, task, *arguments)

    monkeypatch.setattr(tasks.TaskRunner, "_run", count)
    _, folder = build_toy(DATASETS, write_json=True)
    assert not set(written) & set(done) and written
    assert without_titles(contents(folder)) == without_titles(reference_bytes)
    assert not (tmp_path / "out.building").exists()


def test_an_unfinished_build_is_not_mixed_with_another(build_toy: BuildToy, tmp_path: Path) -> None:
    toy_data(tmp_path / "data")
    broken = tmp_path / "data/oa_leet10k/a.jsonl"
    sound = broken.read_text()
    broken.write_text(sound + "broken\n")
    with pytest.raises(RecordError, match=r"a\.jsonl:51: not valid JSON"):
        build_toy(DATASETS, RunOptions(strict=True))
    with pytest.raises(
        BuildError, match=r"out\.building: holds an unfinished build with another configuration or other inputs"
    ):
        build_toy(DATASETS, min_assistant_tokens=3)
    broken.write_text(sound)
    with pytest.raises(BuildError, match="start over"):
        build_toy(DATASETS)
    manifest, _ = build_toy(DATASETS, RunOptions(overwrite=True))
    assert manifest.splits["train"].documents > 0


def test_a_build_without_finished_parts_accepts_corrected_data(build_toy: BuildToy, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [*question_records(1), {"question": "q", "answer": None}])
    with pytest.raises(RecordError, match=r"train\.jsonl:2: a message is not text; the assistant .* NoneType"):
        build_toy(["gsm8k"], RunOptions(strict=True))
    write_jsonl(path, question_records(2))
    assert build_toy(["gsm8k"])[0].splits["train"].documents == 2


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("record", [{"question": "q", "answer": 7}, {"question": "q"}])
def test_a_bad_record_deep_in_a_file_is_named(record: dict[str, Any], build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [*question_records(60), record])
    with pytest.raises(RecordError, match=r"train\.jsonl:61: "):
        build_toy(["gsm8k"], RunOptions(strict=True))


def test_finished_output_is_kept(build_toy: BuildToy, tmp_path: Path) -> None:
    toy_data(tmp_path / "data")
    _, folder = build_toy(DATASETS)
    with pytest.raises(BuildError, match="exists already; give --overwrite"):
        build_toy(DATASETS)
    manifest, _ = build_toy(["gsm8k"], RunOptions(overwrite=True))
    assert [d.name for d in manifest.splits["train"].datasets] == ["gsm8k"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    assert folder.is_dir()


def test_a_second_build_of_the_same_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretokenizer.tasks.work_folder.LOCK_PATIENCE_SECONDS", 0.1)
    toy_data(tmp_path / "data")
    config = make_toy_config(tmp_path, DATASETS)
    with (
        work_folder(work_path(config.output_folder), make_plan(config), overwrite=False),
        pytest.raises(BusyError, match=r"out\.building: .*process.* is writing it"),
    ):
        build(config, RunOptions())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [1, 2])
def test_no_ids_of_a_wrong_encoder_are_kept(
    reference_bytes: dict[str, bytes], build_toy: BuildToy, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The encoder is right for the first records, so some parts finish before one fails."""
    pytest.importorskip("gigatoken")
    from pretokenizer.encode.engine import FastEngine

    encode = FastEngine.encode

    def wrong_for_sums(self: FastEngine, text: str) -> Any:
        return encode(self, text if "What is 0 plus" in text else text.replace(" plus ", " minus "))

    monkeypatch.setattr(FastEngine, "encode", wrong_for_sums)
    manifest, folder = build_toy(DATASETS, RunOptions(workers=workers), write_json=True)
    assert without_titles(contents(folder)) == without_titles(reference_bytes)
    assert manifest.reports["engines"] == ["sentencepiece (the reference)"]
    (warning,) = manifest.reports["warnings"]
    assert warning.startswith("gigatoken ") and " gave other ids than sentencepiece for 'What is " in warning
    assert warning.endswith("; sentencepiece encoded everything again")
    assert os.environ.get(REFERENCE_ENV) is None


@pytest.mark.parametrize("killed_in", ["compress", "_tidy_up"])
def test_a_build_killed_after_publishing_is_tidied_up(
    build_toy: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    toy_data(tmp_path / "data")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, killed_in, killed)
        with pytest.raises(KeyboardInterrupt):
            build_toy(DATASETS, compress=True)
    assert (tmp_path / "out.building").is_dir()
    with pytest.raises(BuildError, match="exists already"):  # another build's folder is not removed
        build_toy(DATASETS, compress=True, rng_seed=1)
    manifest, folder = build_toy(DATASETS, compress=True)
    assert manifest == DataManifest.load(folder)
    assert (tmp_path / "out.tar.gz").is_file() and not (tmp_path / "out.building").exists()


def test_an_empty_train_split_is_a_warning(build_toy: BuildToy, tmp_path: Path) -> None:
    toy_data(tmp_path / "data")
    manifest, folder = build_toy(["gsm8k"], min_assistant_tokens=10_000)
    warning = "train has no document at all: nothing can be trained on this (the reasons are in stats.md)"
    assert manifest.reports["warnings"] == [warning]
    assert "Accepted: 0/" in (folder / "toy-train_stats.txt").read_text()
    assert warning in (folder / "stats.md").read_text() and not (folder / "toy-train-text.bin").exists()


def test_broken_unicode_is_left_out_and_counted(build_toy: BuildToy, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(3))
    path.write_text(path.read_text() + '{"question": "half \\ud83d pair", "answer": "x"}\n')
    manifest, _ = build_toy(["gsm8k"], RunOptions(max_bad_fraction=0.25))
    assert manifest.splits["train"].documents == 3
    assert manifest.reports["bad_records"]["0:gsm8k"]["reasons"] == {"broken Unicode": 1}
    assert manifest.reports["bad_records"]["0:gsm8k"]["examples"] == [f"{path}:4: broken Unicode"]


@pytest.mark.usefixtures("small_chunks")
def test_a_worker_that_dies_is_one_error(build_toy: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_data(tmp_path / "data")
    run = tasks.TaskRunner.run

    def die_on_the_third(self: tasks.TaskRunner, task: Any) -> None:
        if task.index == 3:
            os._exit(9)
        run(self, task)

    with monkeypatch.context() as patch, pytest.raises(BuildError, match="a worker process was killed"):
        patch.setattr(tasks.TaskRunner, "run", die_on_the_third)
        build_toy(DATASETS, RunOptions(workers=2))
    manifest, _ = build_toy(DATASETS, RunOptions(workers=2))
    assert manifest.splits["train"].documents > 0


def test_a_build_killed_with_its_workers_resumes_at_once(tmp_path: Path) -> None:
    """Send SIGKILL to a build with two workers and start the same command again at once."""
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(300))
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pretokenizer import build\n"
        "from pretokenizer.tasks import plan, runner\n"
        "from pretokenizer.config.settings import RunOptions\n"
        "from tests.pretokenizer.conftest import make_toy_config\n"
        "run = runner.TaskRunner.run\n"
        "def slow(self, task):\n"
        "    run(self, task)\n"
        "    time.sleep(float(sys.argv[2]))\n"
        "runner.TaskRunner.run = slow\n"
        "build.make_plan = lambda config: plan.make_plan(config, 3000)\n"
        "config = make_toy_config(Path(sys.argv[1]), ['gsm8k'])\n"
        "print(build.build(config, RunOptions(workers=2)).splits['train'].documents)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen([*command, "60"], env=environment, stderr=subprocess.DEVNULL)
    parts = tmp_path / "out.building/parts"
    for _ in range(600):
        if len(list(parts.glob("*.json"))) == 2:
            break
        time.sleep(0.1)
    started.kill()
    started.wait()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert len(before) == 2
    done = subprocess.run([*command, "0"], env=environment, capture_output=True, text=True)
    assert done.stdout == "300\n", done.stderr
