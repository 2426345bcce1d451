"""Losses of a training run beside TRL's on the same data: one tiny Llama, 16 conversations, 10 AdamW steps, fp32.

    python -m benchmarks.trl_losses            prints both losses of each step and the largest relative difference

Every step takes all 16 conversations, so that the order in which they are read cannot matter. TRL gets the token ids
and the loss mask of our shards. Needs trl, accelerate and datasets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pretokenizer.chat.roles import Role
from pretokenizer.files.shard import ShardReader, ShardWriter

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS, STEPS, LENGTH, RATE = 16, 10, 512, 1e-3
ALLOWED = 5e-7


def main() -> int:
    os.environ["OASST_DEVICE"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        prefix = prepare(Path(folder))
        ours, theirs = our_losses(Path(folder), prefix), trl_losses(Path(folder), prefix)
    differences = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
    for step, (a, b, apart) in enumerate(zip(ours, theirs, differences, strict=True), start=1):
        print(f"step {step:2d}  ours {a:.7f}  TRL {b:.7f}  {apart:.1e} apart")
    print(f"largest relative difference {max(differences):.1e}, allowed {ALLOWED:.0e}")
    return int(max(differences) > ALLOWED)


def prepare(folder: Path) -> Path:
    """Write a random Llama, its checkpoint, and shards of the first conversations that fit into a row.

    Return the path prefix of the shards.
    """
    data = ["--data_dir", "examples/data", "--output_dir", f"{folder}/all", "--output_dir_suffix", ""]
    run("-m", "pretokenizer", "build", "--configs", "demo_stage1", "sample", *data)
    run("examples/make_tiny_llama.py", f"{folder}/hf")
    run(
        "-m",
        "checkpoint_convert",
        "from-hf",
        f"{folder}/hf",
        f"{folder}/base",
        "--vocab_extra_ids_list",
        "<|im_start|>,<|im_end|>",
    )
    run("-m", "checkpoint_convert", "to-hf", f"{folder}/base", f"{folder}/start")
    text, role = (ShardReader(f"{folder}/all/demo_stage1-train-{kind}") for kind in ("text", "role"))
    chosen = [index for index in range(len(text)) if len(text[index]) <= LENGTH][:DOCUMENTS]
    prefix = folder / "few"
    with ShardWriter(f"{prefix}-text", np.uint16) as texts, ShardWriter(f"{prefix}-role", np.uint16) as roles:
        for index in chosen:
            texts.add(text[index].tolist())
            roles.add(role[index].tolist())
    return prefix


def our_losses(folder: Path, prefix: Path) -> list[float]:
    flags = [f"--load={folder}/base", "--use_checkpoint_args", f"--save={folder}/ours", f"--train_data_path={prefix}"]
    sizes = ["--micro_batch_size", "4", "--global_batch_size", str(DOCUMENTS), "--seq_length", str(LENGTH)]
    rates = ["--lr", str(RATE), "--min_lr", str(RATE), "--lr_decay_style", "constant", "--clip_grad", "1.0"]
    adam = ["--adam_beta2", "0.999", "--adam_eps", "1e-8", "--weight_decay", "0"]
    run("-m", "megatron_train", *flags, *sizes, *rates, *adam, "--train_iters", str(STEPS), "--eval_iters", "0")
    records = map(json.loads, (folder / "ours" / "metrics.jsonl").read_text().splitlines())
    return [record["lm_loss"] for record in records]


def trl_losses(folder: Path, prefix: Path) -> list[float]:
    """Train with TRL's SFTTrainer, and return the loss of each step, unrounded."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    text, role = ShardReader(f"{prefix}-text"), ShardReader(f"{prefix}-role")
    rows = [
        {"input_ids": text[i].tolist(), "completion_mask": (np.asarray(role[i]) == Role.ASSISTANT).astype(int).tolist()}
        for i in range(len(text))
    ]
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=DOCUMENTS,
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        adam_epsilon=1e-8,
        weight_decay=0.0,
        max_length=LENGTH,
        completion_only_loss=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    losses: list[float] = []

    class Recorder(SFTTrainer):  # type: ignore[misc]
        def training_step(self, *arguments: object, **keywords: object) -> torch.Tensor:
            loss = super().training_step(*arguments, **keywords)
            losses.append(float(loss))
            return loss

    start = folder / "start"
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    Recorder(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(start),
    ).train()
    return losses


def run(*words: str) -> None:
    """Run Python with these arguments in the repository root, without its output. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-W", "ignore", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
