"""Parts of a build that run separately or under ray merge to the same bytes."""

import json
import shutil
from pathlib import Path

import pytest

from pretokenizer import build as build_module
from pretokenizer import merge as merge_module
from pretokenizer.build import build
from pretokenizer.config.settings import RunOptions
from pretokenizer.files.checksums import write_sha256sums
from pretokenizer.merge import build_part, merge
from pretokenizer.tasks.plan import BuildError, make_plan
from pretokenizer.tasks.plan_file import plan_to_json, read_plan
from tests.pretokenizer.conftest import make_toy_config
from tests.pretokenizer.test_build import DATASETS, contents, toy_data, without_titles


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the folders of three built parts of the toy data."""
    monkeypatch.setattr(build_module, "make_plan", lambda config: make_plan(config, 500))
    monkeypatch.setattr(merge_module, "make_plan", lambda config: make_plan(config, 500))
    toy_data(tmp_path / "data")
    config = make_toy_config(tmp_path, DATASETS, write_json=True, output_dir=str(tmp_path / "apart"))
    return [build_part(config, RunOptions(part=i, num_parts=3)) for i in range(3)]


def test_parts_join_to_the_bytes_of_one_run(parts: list[Path], tmp_path: Path) -> None:
    config = make_toy_config(tmp_path, DATASETS, write_json=True)
    build(config, RunOptions())
    assert [path.name for path in parts] == [f"part-0000{i}-of-00003" for i in range(3)]
    moved = [shutil.move(part, tmp_path / f"moved{i}") for i, part in enumerate(parts)]
    shutil.rmtree(tmp_path / "data")
    manifest = merge([Path(path) for path in moved[::-1]], tmp_path / "joined")
    assert without_titles(contents(tmp_path / "joined")) == without_titles(contents(config.output_folder))
    assert manifest.splits["train"].documents > 0
    assert not list(tmp_path.glob("joined.*"))


def test_a_part_killed_before_it_is_published_keeps_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_data(tmp_path / "data")
    config, options = make_toy_config(tmp_path, DATASETS), RunOptions(part=0, num_parts=2)
    with monkeypatch.context() as patch:
        patch.setattr("pretokenizer.merge.write_sha256sums", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_part(config, options)
    monkeypatch.setattr("pretokenizer.tasks.runner.TaskRunner._run", lambda *arguments: 1 / 0)  # no task may run again
    assert (build_part(config, options) / "SHA256SUMS").is_file()


def test_a_merged_output_is_compressed_as_asked(tmp_path: Path) -> None:
    toy_data(tmp_path / "data")
    merge(
        [build_part(make_toy_config(tmp_path, DATASETS, compress=True), RunOptions(part=0, num_parts=1))],
        tmp_path / "j",
    )
    assert (tmp_path / "j.tar.gz").is_file()


def test_parts_that_do_not_fit_are_refused(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"none of the folders has tasks \[\d+.*\] of \d+"):
        merge(parts[:2], tmp_path / "joined")
    (tmp_path / "joined").mkdir()
    with pytest.raises(BuildError, match="joined: exists already"):
        merge(parts, tmp_path / "joined")
    other = make_toy_config(tmp_path, DATASETS, min_assistant_tokens=9, output_dir=str(tmp_path / "other"))
    foreign = build_part(other, RunOptions(part=2, num_parts=3))
    with pytest.raises(BuildError, match="belongs to another build than"):
        merge([*parts[:2], foreign], tmp_path / "joined2")
    with pytest.raises(BuildError, match=r"plan\.json: missing; .* is not a folder of `build --part`"):
        merge([tmp_path], tmp_path / "joined2")
    plan_path = parts[0] / "plan.json"
    raw = json.loads(plan_path.read_text())
    plan_path.write_text(json.dumps({**raw, "fingerprint": "0"}))
    write_sha256sums(parts[0])
    with pytest.raises(BuildError, match=r"plan\.json: damaged, or written by another version"):
        merge(parts, tmp_path / "joined2")
    assert not (tmp_path / "joined2").exists()


def test_a_damaged_part_is_named(parts: list[Path], tmp_path: Path) -> None:
    tokens = next(path for path in sorted((parts[1] / "parts").glob("*.tokens")) if path.stat().st_size)
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(BuildError, match=rf"{tokens.name}: contents differ from SHA256SUMS; copy the folder again"):
        merge(parts, tmp_path / "joined")
    write_sha256sums(parts[1])
    with pytest.raises(ValueError, match=rf"{tokens.name}: \d+ bytes, expected \d+; remove part-00001-00\.\* there"):
        merge(parts, tmp_path / "joined")


def test_a_plan_is_read_as_it_was_written(parts: list[Path], tmp_path: Path) -> None:
    plan = read_plan(parts[0])
    assert plan_to_json(plan) == json.loads((parts[0] / "plan.json").read_text())
    assert len(plan.tasks) > 3 and plan.config.write_json


def test_a_local_ray_cluster_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    toy_data(tmp_path / "data")
    here = make_toy_config(tmp_path, DATASETS, write_json=True)
    there = make_toy_config(tmp_path, DATASETS, write_json=True, output_dir=str(tmp_path / "ray"))
    build(here, RunOptions())
    build(there, RunOptions(executor="ray", workers=2))
    assert without_titles(contents(there.output_folder)) == without_titles(contents(here.output_folder))


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    toy_data(tmp_path / "data")
    with pytest.raises(BuildError, match=r"--executor ray: Ray is not installed; pip install 'oasst-megatron\[ray\]'"):
        build(make_toy_config(tmp_path, DATASETS), RunOptions(executor="ray"))
