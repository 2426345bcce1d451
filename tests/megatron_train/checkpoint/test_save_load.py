from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_train.certificate.tensors import full_parameters
from megatron_train.checkpoint import save_load as checkpoint
from megatron_train.checkpoint.folder import CheckpointError, check_folder
from megatron_train.checkpoint.resume import Start
from megatron_train.checkpoint.save_load import load_checkpoint, load_weights
from megatron_train.run import Run
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA, MODELS
from tests.megatron_train.runs import save, start

pytestmark = pytest.mark.usefixtures("single_process")
SMALL = replace(LLAMA, num_layers=2)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {"train_data_path": [write_shard(tmp_path / "toy", toy_documents(8))], "global_batch_size": 2, "lr": 1e-2}


@pytest.fixture
def run(settings: dict[str, Any]) -> Run:
    run = start(SMALL, settings)
    run.step()
    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_save_leaves_nothing_under_a_final_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "save"
    save(run, root)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    run.step()
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_rng", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(run, root)
    assert names(root) == [".iter_0000002.staging", "iter_0000001", "latest_checkpointed_iteration.txt"]
    assert (root / "latest_checkpointed_iteration.txt").read_text() == "1\n"
    save(run, root)
    assert names(root) == ["iter_0000001", "iter_0000002", "latest_checkpointed_iteration.txt"]
    check_folder(root / "iter_0000002")


def test_saving_an_iteration_again_replaces_it(run: Run, tmp_path: Path) -> None:
    first = (save(run, tmp_path / "save") / "SHA256SUMS").read_text()
    run.chunks[0].module.output_layer.weight.data.add_(1.0)
    folder = save(run, tmp_path / "save")
    assert (folder / "SHA256SUMS").read_text() != first
    assert names(tmp_path / "save") == ["iter_0000001", "latest_checkpointed_iteration.txt"]
    check_folder(folder)


def test_only_the_newest_are_kept(run: Run, tmp_path: Path) -> None:
    run.config = replace(run.config, checkpoint=replace(run.config.checkpoint, save_total_limit=2))
    for _ in range(3):
        save(run, tmp_path / "save")
        run.step()
    assert names(tmp_path / "save") == ["iter_0000002", "iter_0000003", "latest_checkpointed_iteration.txt"]


def test_the_newest_save_is_kept_although_another_run_got_further(run: Run, tmp_path: Path) -> None:
    run.config = replace(run.config, checkpoint=replace(run.config.checkpoint, save_total_limit=1))
    for iteration in (30, 10, 15):  # the run resumed from an earlier checkpoint than 30
        run.state = replace(run.state, iteration=iteration)
        save(run, tmp_path / "save")
    assert names(tmp_path / "save") == ["iter_0000015", "iter_0000030", "latest_checkpointed_iteration.txt"]
    assert (tmp_path / "save" / "latest_checkpointed_iteration.txt").read_text() == "15\n"


def test_an_old_checkpoint_that_cannot_be_removed_is_a_warning(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.config = replace(run.config, checkpoint=replace(run.config.checkpoint, save_total_limit=1))
    (tmp_path / "save").mkdir()
    (tmp_path / "save/iter_0000000").write_text("no folder")
    run.step()
    save(run, tmp_path / "save")
    assert f"iter_{run.state.iteration:07d}" in names(tmp_path / "save")
    assert "an old checkpoint could not be removed" in capsys.readouterr().err


def test_the_tokenizer_travels_along(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "tokenizer_config.json").write_text("[]")
    run.tokenizer_dirs = {"tokenizer": tmp_path / "tokenizer", "tokenizer/source": tmp_path / "source"}
    folder = save(run, tmp_path / "save")
    assert (folder / "tokenizer" / "tokenizer.json").read_text() == "{}"
    assert (folder / "tokenizer" / "source" / "tokenizer_config.json").read_text() == "[]"


@pytest.mark.parametrize("kind", MODELS)
def test_weights_come_back_bitwise(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    run = start(MODELS[kind], settings)
    expected = full_parameters(run.chunks)[0]
    folder = save(run, tmp_path / "save")
    other = start(MODELS[kind], settings | {"seed": 7})
    assert any(not value.equal(expected[key]) for key, value in full_parameters(other.chunks)[0].items())
    load_weights(folder, other.chunks)
    found = full_parameters(other.chunks)[0]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_finetuning_trains_the_loaded_weights_not_those_the_optimizer_was_built_with(
    run: Run, settings: dict[str, Any], tmp_path: Path
) -> None:
    """The optimizer keeps fp32 copies of bf16 weights. Unless they are updated, the first step undoes the load."""
    folder = save(run, tmp_path / "save")
    fresh = start(SMALL, settings | {"bf16": True, "lr": 0.0, "seed": 7})
    load_checkpoint(Start(folder, resume=False), fresh.config, fresh.chunks, fresh.optimizer, fresh.layout)
    fresh.step()
    found, expected = full_parameters(fresh.chunks)[0], full_parameters(run.chunks)[0]
    assert all(torch.equal(found[key], value.bfloat16().float()) for key, value in expected.items())


def test_weights_alone_cannot_be_resumed(run: Run, settings: dict[str, Any], tmp_path: Path) -> None:
    folder = save(run, tmp_path / "save")
    (folder / "train_state.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds weights only.*--finetune"):
        start(SMALL, settings, folder, resume=True)


@pytest.mark.parametrize("change", [{"num_layers": 4}, {"hidden_size": 32, "kv_channels": 16}, {"vocab_size": 300}])
def test_a_checkpoint_of_another_shape_is_refused(
    run: Run, settings: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = save(run, tmp_path / "save")
    other = start(replace(SMALL, padded_vocab_size=None, **change), settings)
    with pytest.raises(CheckpointError, match=r"does not fit this model: .*(shape mismatch|do not match)"):
        load_weights(folder, other.chunks)


def test_a_resumed_run_has_its_own_settings_of_adam_and_names_a_new_order_of_samples(
    run: Run, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(run, tmp_path / "save")
    changed = {"adam_beta1": 0.5, "adam_beta2": 0.9, "adam_eps": 1e-3, "packing": True}
    again = start(SMALL, settings | changed, folder, resume=True)
    assert [(group["betas"], group["eps"]) for group in again.optimizer.param_groups] == [((0.5, 0.9), 1e-3)] * 2
    assert "warning: packing: these settings decide which documents a sample holds" in capsys.readouterr().err
    start(SMALL, settings, folder, resume=True)
    assert "which documents" not in capsys.readouterr().err


def test_a_resumed_run_has_its_own_bounds_of_the_learning_rate(tmp_path: Path, single_process: None) -> None:
    settings = {"train_data_path": [write_shard(tmp_path / "toy", toy_documents(8))], "lr": 1e-2, "min_lr": 1e-3}
    run = start(LLAMA, settings)
    run.step()
    folder = save(run, tmp_path / "saved")
    resumed = start(LLAMA, settings | {"lr": 2e-2, "min_lr": 0.0}, folder, resume=True)
    assert [(group["max_lr"], group["min_lr"]) for group in resumed.optimizer.param_groups] == [(2e-2, 0.0)] * 2
