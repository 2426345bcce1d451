from __future__ import annotations

from pathlib import Path

import pytest

from megatron_train.checkpoint.folder import (
    CheckpointError,
    check_folder,
    find_checkpoint,
    folder_name,
    list_iterations,
    publish_checkpoint,
    remove_stale_staging,
    retain_checkpoints,
    staging_folder,
)
from pretokenizer.files.checksums import write_sha256sums


def publish(root: Path, iteration: int | None) -> Path:
    staging = staging_folder(root, iteration)
    staging.mkdir(parents=True)
    (staging / "model_config.yaml").write_text(f"iteration: {iteration}\n")
    (staging / "tokenizer").mkdir()
    (staging / "tokenizer" / "tokenizer.json").write_text("{}")
    return publish_checkpoint(root, iteration)


def test_names() -> None:
    assert (folder_name(500), folder_name(12_345_678), folder_name(None)) == (
        "iter_0000500",
        "iter_12345678",
        "release",
    )
    assert staging_folder(Path("c"), 500) == Path("c/.iter_0000500.staging")


def test_publishing_renames_sums_and_moves_the_tracker(tmp_path: Path) -> None:
    folder = publish(tmp_path, 500)
    assert folder == tmp_path / "iter_0000500"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000500", "latest_checkpointed_iteration.txt"]
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "500\n"
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    assert sorted(line.split()[1] for line in sums) == ["model_config.yaml", "tokenizer/tokenizer.json"]
    check_folder(folder)


def test_the_tracker_names_the_checkpoint_unless_an_iteration_is_asked_for(tmp_path: Path) -> None:
    for iteration in (500, 1000):
        publish(tmp_path, iteration)
    assert list_iterations(tmp_path) == [500, 1000]
    assert find_checkpoint(tmp_path) == tmp_path / "iter_0001000"
    assert find_checkpoint(tmp_path, 500) == tmp_path / "iter_0000500"
    assert find_checkpoint(tmp_path / "iter_0000500") == tmp_path / "iter_0000500"
    assert find_checkpoint(tmp_path / "iter_0000500", 500) == tmp_path / "iter_0000500"
    with pytest.raises(CheckpointError, match=r"iter_0000500: is one published checkpoint itself, not iter_0001000;"):
        find_checkpoint(tmp_path / "iter_0000500", 1000)


def test_a_release_is_found(tmp_path: Path) -> None:
    publish(tmp_path, None)
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "release\n"
    assert find_checkpoint(tmp_path) == tmp_path / "release"


def test_missing_and_present_checkpoints_are_named(tmp_path: Path) -> None:
    def message(path: Path, iteration: int | None = None) -> str:
        with pytest.raises(CheckpointError) as error:
            find_checkpoint(path, iteration)
        return str(error.value)

    assert message(tmp_path / "nowhere") == f"{tmp_path}/nowhere: no such checkpoint folder"
    (tmp_path / "metrics.jsonl").touch()
    assert message(tmp_path) == (
        f"{tmp_path}: has no latest_checkpointed_iteration.txt, so no checkpoint was published there; found nothing"
    )
    publish(tmp_path, 500)
    assert message(tmp_path, 600) == f"{tmp_path}: has no iter_0000600; found iter_0000500"
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("last\n")
    assert message(tmp_path) == (
        f"{tmp_path}/latest_checkpointed_iteration.txt: holds 'last'; expected an iteration number or 'release'"
    )


def test_one_changed_bit_is_named(tmp_path: Path) -> None:
    folder = publish(tmp_path, 500)
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(CheckpointError, match=r"iter_0000500: damaged: .*tokenizer/tokenizer.json"):
        check_folder(folder)


def test_ranks_share_the_reading_and_between_them_find_all(tmp_path: Path) -> None:
    folder = publish(tmp_path, 500)
    for name in ("model_config.yaml", "tokenizer/tokenizer.json"):
        original = (folder / name).read_text()
        (folder / name).write_text(original + " ")
        refusals = []
        for part in range(3):
            try:
                check_folder(folder, part, num_parts=3)
            except CheckpointError as error:
                refusals.append(str(error))
        assert refusals == [f"{folder}: damaged: {folder / name}: contents differ from SHA256SUMS"]
        (folder / name).write_text(original)
    for part in range(3):
        check_folder(folder, part, num_parts=3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = publish(tmp_path, 500)
    (folder / "model_config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"model_config.yaml"):
        check_folder(folder)


def test_a_folder_without_sums_was_not_completed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no SHA256SUMS"):
        check_folder(tmp_path)


def test_a_pickle_that_would_run_code_is_refused_though_its_sum_is_right(tmp_path: Path) -> None:
    folder = publish(tmp_path, 500)
    (folder / "common.pt").write_bytes(b"cos\nsystem\n(Vtrue\ntR.")
    write_sha256sums(folder)
    with pytest.raises(CheckpointError, match=r"common.pt: refused: it imports os.system"):
        check_folder(folder)


def test_only_our_own_staging_folders_are_removed(tmp_path: Path) -> None:
    publish(tmp_path, 500)
    staging_folder(tmp_path, 600).mkdir()
    (staging_folder(tmp_path, 600) / "x").write_text("x")
    (tmp_path / ".other.staging").mkdir()
    (tmp_path / ".iter_0000700.staging").symlink_to(tmp_path / "iter_0000500", target_is_directory=True)
    (tmp_path / ".latest_checkpointed_iteration.txt.x1y2.tmp").write_text("6")
    remove_stale_staging(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    assert not staging_folder(tmp_path, 600).exists()
    assert (tmp_path / ".other.staging").is_dir()
    assert (tmp_path / "iter_0000500" / "model_config.yaml").is_file()


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [(None, None, [1, 2, 3, 4]), (2, None, [3, 4]), (2, 1, [1, 3, 4]), (1, 4, [4]), (9, 2, [1, 2, 3, 4])],
)
def test_the_newest_and_the_best_are_kept(limit: int | None, best: int | None, kept: list[int], tmp_path: Path) -> None:
    for iteration in (1, 2, 3, 4, 5):  # the last is of a run that this one went back from
        (tmp_path / f"iter_{iteration:07d}").mkdir()
    retain_checkpoints(tmp_path, 4, limit, best)
    assert list_iterations(tmp_path) == [*kept, 5]
    named = tmp_path / "best_checkpointed_iteration.txt"
    assert (named.read_text() if named.is_file() else None) == (f"{best}\n" if best else None)
