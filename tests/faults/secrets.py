"""Secrets planted in the environment and in a section appear in no output, and no file is writable by everyone.

    python -m tests.faults.secrets

A build, an import, a training run and an export run under umask 0, with offline wandb and TensorBoard if installed. The
script then searches every new file and the content of every archive for the secrets, and checks the modes of the files.
"""

from __future__ import annotations

import argparse
import gzip
import os
import stat
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import yaml

from tests.faults.kill_targets import SAMPLE_MODEL, write_records
from tests.faults.tally import Tally
from tests.forked import launch, preload

PLANTED = {
    "HF_TOKEN": "hf_PLANTEDhubtoken0123456789abcdefghij",
    "HUGGING_FACE_HUB_TOKEN": "hf_PLANTEDoldhubtoken0123456789abcde",
    "WANDB_API_KEY": "0123456789PLANTEDwandb0123456789abcdef012",
}
IN_SECTION = "hf_PLANTEDinsection0123456789abcdefghij"
"""The secret given as hf_hub_token, a key of the Hugging Face trainer that the cards' sections have."""


def run_everything(root: Path) -> int:
    """Run every command that writes and return their number. Raises AssertionError when one fails."""
    write_records(root / "data")
    section = {
        "datasets": ["gsm8k", "alpaca"],
        "data_dir": "data",
        "vocab_file": str(SAMPLE_MODEL),
        "output_dir": "shards",
        "filename_prefix": "f",
        "hf_hub_token": IN_SECTION,
        "write_json": True,
        "compress": True,
    }
    (root / "configs").mkdir()
    (root / "configs/mine.yaml").write_text(yaml.safe_dump({"mine": section}))
    sizes = {"hidden_size": 64, "ffn_hidden_size": 96, "num_attention_heads": 4, "vocab_size": 4096, "num_layers": 2}
    (root / "model.yaml").write_text(yaml.safe_dump({"family": "llama", "max_position_embeddings": 256, **sizes}))
    build = ["build", "--configs", "mine", "--config_dir", "configs"]
    shapes = ["--seq_length", "256", "--global_batch_size", "2", "--lr", "1e-3", "--train_iters", "2"]
    data = ["--train_data_path", "shards/f-train", "--valid_data_path", "shards/f-val", "--eval_iters", "1"]
    outputs = ["--save", "checkpoints", "--tensorboard_dir", "board", "--wandb_logger"]
    commands = [
        ("pretokenizer", build),
        ("pretokenizer", [*build, "--part", "0", "--num_parts", "1"]),
        ("trainer", ["--model", "model.yaml", *shapes, *data, *outputs]),
        ("converter", ["to-hf", "checkpoints", "hf"]),
        ("converter", ["from-hf", "hf", "again"]),
        ("pretokenizer", ["build", "--configs", "mine", "nothing"]),  # error messages must not contain them either
        ("converter", ["to-hf", "checkpoints", "other", "--push_to_hub", "a/b/c"]),
    ]
    for number, (program, arguments) in enumerate(commands):
        run = launch(program, arguments, root, log=root / f"log{number}.txt")
        code = run.wait(120)
        assert (code == 0) == (number < 5), run.tail()
    return len(commands)


def leaks(root: Path, inputs: set[Path]) -> tuple[int, list[str]]:
    """Search the files below `root` except `inputs`. Return their number and the tokens found."""
    secrets = [value.encode() for value in (*PLANTED.values(), IN_SECTION)]
    problems, count = [], 0
    for path in sorted(root.rglob("*")):
        if path in inputs or path.is_symlink():
            continue
        if path.stat().st_mode & stat.S_IWOTH:
            problems.append(f"{path.relative_to(root)}: everyone may write it ({stat.filemode(path.stat().st_mode)})")
        if not path.is_file():
            continue
        count += 1
        contents = [path.read_bytes()]
        if path.suffix == ".gz":
            contents.append(gzip.decompress(contents[0]))
        if path.suffix == ".pt":
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(entry) for entry in archive.infolist()]
        problems += [f"{path.relative_to(root)}: holds a token" for data in contents if any(s in data for s in secrets)]
    return count, problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of no effect: nothing here is random")
    given = parser.parse_args(arguments)
    tally = Tally("secrets", given.seed)
    os.environ.update(PLANTED, WANDB_MODE="offline")
    for program in ("pretokenizer", "trainer", "converter"):
        preload(program)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        before = os.umask(0)
        try:
            count = run_everything(root)
        finally:
            os.umask(before)
        inputs = {root / "data", root / "configs", root / "model.yaml", *(root / "data").rglob("*")}
        for log in root.glob("log*.txt"):
            log.chmod(0o644)  # written by this script, not by the programs
        num_files, problems = leaks(root, inputs | {*(root / "configs").rglob("*")})
    wandb = "wandb offline" if find_spec("wandb") else "without wandb"
    tally.add("planted tokens and umask 0", count, problems, f"{count} commands, {num_files} files searched, {wandb}")
    return tally.close()


if __name__ == "__main__":
    sys.exit(main())
