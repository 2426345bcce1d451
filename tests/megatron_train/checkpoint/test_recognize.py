"""A path that holds something else than a checkpoint of this project is named, with the command that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_train.checkpoint.folder import CheckpointError, find_checkpoint
from megatron_train.checkpoint.recognize import described, foreign


@pytest.mark.parametrize(
    ("file", "what", "remedy"),
    [
        ("mp_rank_00/model_optim_rng.pt", "Megatron's old format", "from-megatron-llm {} CKPT_DIR"),
        ("iter_0000500/mp_rank_00_000/model_optim_rng.pt", "Megatron's old format", "--ckpt-convert-format torch_dist"),
        ("iter_0000500/.metadata", "torch_dist checkpoint of another tool", "from-megatron-core {} CKPT_DIR"),
        ("step_10/weights/.metadata", "torch_dist checkpoint of another tool", "from-megatron-core {} CKPT_DIR"),
        ("checkpoint-5/pytorch_model_fsdp_0/.metadata", "FSDP checkpoint", "accelerate merge-weights"),
        ("global_step500/mp_rank_00_model_states.pt", "DeepSpeed checkpoint", "zero_to_fp32.py"),
        ("iter_0000500/model.pkl", "checkpoint of an unknown tool", "export it to a Hugging Face folder"),
        ("model-00001-of-00002.safetensors", "Hugging Face folder", "from-hf {} CKPT_DIR"),
        ("pytorch_model.bin", "Hugging Face folder", "from-hf {} CKPT_DIR"),
        ("config.json", "Hugging Face folder without weights", "fetch its safetensors"),
        ("nested/config.json", "holds a Hugging Face folder", "name {}/nested"),
        ("checkpoint-500/config.json", "output folder of a trainer", "as {}/checkpoint-500"),
        ("snapshots/abc/config.json", "cache folder of the hub", "name {}/snapshots/abc"),
        ("adapter_config.json", "LoRA adapter", "merge_and_unload()"),
        ("consolidated.00.pth", "Meta's weights", "from-meta {} CKPT_DIR"),
        ("model.gguf", "GGUF", "take the Hugging Face model"),
        ("blobs/sha256-0f", "Ollama", "take the Hugging Face model"),
        ("model.nemo", "archive of NeMo", "use from-hf"),
        ("model.onnx", "ONNX", "fetch the model's safetensors"),
        ("mix-train-text.idx", "shards of training data", "--train_data_path"),
        ("tokenizer.json", "a tokenizer without a model", ""),
    ],
)
def test_folders_of_other_tools(tmp_path: Path, file: str, what: str, remedy: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    message = foreign(tmp_path) or ""
    assert what in message and remedy.format(tmp_path) in message
    with pytest.raises(CheckpointError) as error:
        find_checkpoint(tmp_path)
    assert str(error.value) == f"{tmp_path} {message}"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.safetensors", "one file of weights; name the folder"),
        ("model.gguf", "a GGUF file"),
        ("model.zip", "an archive; unpack it"),
        ("model.tar.gz", "an archive; unpack it"),
        ("model.nemo", "an archive of NeMo"),
        ("README", "a file; name a folder"),
    ],
)
def test_files(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=f"{name} is {what}"):
        find_checkpoint(tmp_path / name)


def test_a_checkpoint_of_a_tracker_is_recognized_too(tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("500")
    (tmp_path / "iter_0000500" / "mp_rank_00").mkdir(parents=True)
    (tmp_path / "iter_0000500" / "mp_rank_00" / "model_optim_rng.pt").touch()
    with pytest.raises(CheckpointError, match="Megatron's old format"):
        find_checkpoint(tmp_path)


def test_missing_and_empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert foreign(tmp_path) == "is an empty folder"
    assert foreign(tmp_path / "x") == "does not exist"
    monkeypatch.chdir(tmp_path)
    assert "hf download org/name --local-dir DIR" in (foreign(Path("org/name")) or "")


def test_a_checkpoint_of_this_project_is_not_foreign(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    for name in ("model_config.yaml", ".metadata"):
        (tmp_path / "release" / name).touch()
    assert foreign(tmp_path) is None and foreign(tmp_path / "release") is None
    assert described(tmp_path).startswith("is a checkpoint of this project; `python -m checkpoint_convert to-hf ")


def test_an_unrecognized_folder_is_no_error_here(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert foreign(tmp_path) is None
    assert described(tmp_path) == "holds no model in a format that this project reads"
