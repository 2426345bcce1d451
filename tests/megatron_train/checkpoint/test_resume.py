from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_train.checkpoint.folder import CheckpointError, publish_checkpoint, staging_folder
from megatron_train.checkpoint.resume import Start, find_start, load_model_config
from megatron_train.config.flags import config_from_settings
from tests.megatron_train.models import LLAMA

pytestmark = pytest.mark.usefixtures("one_rank")


def publish(root: Path, iteration: int | None, trained: bool = True, **flags: Any) -> Path:
    """Publish the checkpoint of a run with `flags`."""
    staging = staging_folder(root, iteration)
    staging.mkdir(parents=True)
    LLAMA.save(staging / "model_config.yaml")
    if trained:
        (staging / "train_state.json").write_text("{}")
        flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
        (staging / "train_config.yaml").write_text(yaml.safe_dump(flags))
    return publish_checkpoint(root, iteration)


def start_of(**settings: Any) -> Start | None:
    return find_start(config_from_settings({key: str(value) for key, value in settings.items()}, "test"))


def test_without_any_checkpoint_a_run_starts_from_the_beginning(tmp_path: Path) -> None:
    assert start_of() is None
    assert start_of(save=tmp_path / "new") is None


def test_the_runs_own_checkpoint_takes_precedence_over_the_one_to_load(tmp_path: Path) -> None:
    base, own = publish(tmp_path / "base", None, trained=False), publish(tmp_path / "own", 5, load=tmp_path / "base")
    assert start_of(load=tmp_path / "base", save=tmp_path / "other") == Start(base, resume=False)
    assert start_of(load=tmp_path / "base", save=tmp_path / "own") == Start(own, resume=True)


def test_finetune_takes_weights_alone_and_resumes_its_own_run(tmp_path: Path) -> None:
    first, second = publish(tmp_path / "first", 5), tmp_path / "second"
    assert start_of(load=tmp_path / "first", save=second, finetune=True) == Start(first, resume=False)
    own = publish(second, 3, load=tmp_path / "first", finetune=True)
    assert start_of(load=tmp_path / "first", save=second, finetune=True) == Start(own, resume=True)


def test_an_iteration_can_be_asked_for(tmp_path: Path) -> None:
    older = publish(tmp_path / "run", 5)
    publish(tmp_path / "run", 10)
    assert start_of(load=tmp_path / "run", load_iters=5) == Start(older, resume=True)
    assert start_of(load=older) == Start(older, resume=True)
    with pytest.raises(CheckpointError, match="has no iter_0000007; found iter_0000005, iter_0000010"):
        start_of(load=tmp_path / "run", load_iters=7)


def test_a_run_that_resumed_at_an_earlier_iteration_continues_from_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    older = publish(run, 5)
    publish(run, 10)
    settings = {"load": run, "save": run, "load_iters": 5}
    assert start_of(**settings) == Start(older, resume=True)
    relaunched = publish(run, 6, load_iters=5)  # the first run's checkpoint
    assert start_of(**settings) == Start(relaunched, resume=True)
    assert start_of(load=run, save=run, load_iters=6) == Start(relaunched, resume=True)
    second = {"load": run, "save": tmp_path / "second", "load_iters": 5, "finetune": True}
    assert start_of(**second) == Start(older, resume=False)
    own = publish(tmp_path / "second", 2, **{key: value for key, value in second.items() if key != "save"})
    assert start_of(**second) == Start(own, resume=True)
    # An earlier iteration can only be one of the run's own folder.
    with pytest.raises(CheckpointError, match="--load_iters 10 would have no effect"):
        start_of(**{**second, "load_iters": 10})


@pytest.mark.parametrize("flags", [{"load": "other"}, {"finetune": True}, {"load": "base", "finetune": True}])
def test_flags_that_a_run_in_save_would_make_useless_are_refused(tmp_path: Path, flags: dict[str, Any]) -> None:
    publish(tmp_path / "own", 5, load=tmp_path / "base")
    publish(tmp_path / "base", None, trained=False)
    given = {name: tmp_path / value if name == "load" else value for name, value in flags.items()}
    with pytest.raises(CheckpointError, match=r"own holds another run, at iter_0000005.* would have no effect"):
        start_of(save=tmp_path / "own", **given)


def test_checkpoints_without_a_tracker_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = [publish(tmp_path / "run", iteration) for iteration in (5, 10)][1]
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").unlink()
    assert start_of(save=tmp_path / "run") == Start(newest, resume=True)
    assert "has no latest_checkpointed_iteration.txt" in capsys.readouterr().err


def damage(folder: Path) -> None:
    (folder / "train_state.json").write_text("{} ")


def test_a_damaged_checkpoint_is_replaced_by_the_newest_sound_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [publish(tmp_path / "run", iteration) for iteration in (5, 10, 15)]
    damage(folders[2])
    assert start_of(save=tmp_path / "run") == Start(folders[1], resume=True)
    warnings = capsys.readouterr().err
    assert "iter_0000015: damaged: " in warnings
    assert f"going back to {folders[1]}" in warnings
    damage(folders[1])
    damage(folders[0])
    with pytest.raises(CheckpointError, match=r"no sound checkpoint to start from; .*iter_0000015"):
        start_of(save=tmp_path / "run")


def test_an_asked_for_checkpoint_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    publish(tmp_path / "run", 5)
    damage(publish(tmp_path / "run", 10))
    with pytest.raises(CheckpointError, match=r"no sound checkpoint to start from; .*iter_0000010"):
        start_of(load=tmp_path / "run", load_iters=10)


def test_a_tracker_whose_folder_is_missing_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = publish(tmp_path / "run", 5)
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("10\n")
    assert start_of(save=tmp_path / "run") == Start(older, resume=True)
    assert "has no iter_0000010; found iter_0000005" in capsys.readouterr().err


def test_the_architecture_comes_from_the_checkpoint_and_must_agree_with_the_file(tmp_path: Path) -> None:
    folder = publish(tmp_path / "run", 5)
    replace(LLAMA, num_layers=8, rotary_base=5e5, vocab_size=125).save(tmp_path / "other.yaml")

    def loaded(start: Path | None = folder, **settings: Any) -> Any:
        return load_model_config(config_from_settings(settings, "test"), start)

    assert loaded() == LLAMA
    assert loaded(model=str(tmp_path / "other.yaml"), use_checkpoint_args=True, load="x") == LLAMA
    assert loaded(None, model=str(tmp_path / "other.yaml")).num_layers == 8
    assert loaded(max_position_embeddings=128).max_position_embeddings == 128
    with pytest.raises(CheckpointError) as error:
        loaded(model=str(tmp_path / "other.yaml"))
    message = str(error.value)
    assert f"num_layers: 8 in {tmp_path}/other.yaml, 4 in {folder}" in message
    assert "rotary_base: 500000.0" in message
    assert "vocab_size" not in message
    with pytest.raises(CheckpointError, match="no architecture: give --load CHECKPOINT, or --model"):
        loaded(None)
