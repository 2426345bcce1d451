"""Conversations become shards, two training stages in two layouts, and a folder with the same loss in transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from pretokenizer.chat.roles import Role
from pretokenizer.files.shard import ShardReader
from tests.paths import ROOT

TOKENIZER = ROOT / "examples/data/tokenizer/sample.model"


def run(*arguments: str, processes: int = 0) -> str:
    """Run a module as a user does, and return its output."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes else []
    command = (
        [sys.executable, *launcher, *arguments]
        if arguments[0].endswith(".py")
        else [sys.executable, *launcher, "-m", *arguments]
    )
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["lm_loss"] for record in records if "lm_loss" in record]


def evaluations(folder: Path) -> dict[str, float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: result["loss"] for record in records for name, result in record.get("eval", {}).items()}


def transformers_loss(hf: Path, prefix: Path, length: int) -> float:
    """Return transformers' mean loss over assistant tokens, from the exported folder and documents cut to `length`."""

    model = transformers.AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32).eval()
    text, role = ShardReader(f"{prefix}-text"), ShardReader(f"{prefix}-role")
    total = count = 0.0
    for index in range(len(text)):
        ids = torch.from_numpy(text[index][:length].astype(np.int64))
        trained = torch.from_numpy(role[index][:length].astype(np.int64))[1:] == int(Role.ASSISTANT)
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids[None]).logits[0, :-1].double(), -1)
        total -= float(logprobs[torch.arange(len(ids) - 1), ids[1:]][trained].sum())
        count += int(trained.sum())
    return total / count


def test_conversations_become_a_model_that_transformers_loads(tmp_path: Path) -> None:
    for stage in ("demo_stage1", "demo_stage2"):
        flags = ["--data_dir", "examples/data", "--output_dir", str(tmp_path / stage), "--output_dir_suffix", ""]
        run("pretokenizer", "build", "--configs", stage, "sample", *flags)
    sizes = [
        "--hidden_size",
        "64",
        "--num_hidden_layers",
        "2",
        "--num_attention_heads",
        "4",
        "--num_key_value_heads",
        "2",
    ]
    run(
        "examples/make_tiny_llama.py",
        str(tmp_path / "hf"),
        "--tokenizer",
        str(TOKENIZER),
        "--intermediate_size",
        "128",
        *sizes,
    )
    tokens = "<|im_start|>,<|im_end|>"
    run("checkpoint_convert", "from-hf", str(tmp_path / "hf"), str(tmp_path / "base"), "--vocab_extra_ids_list", tokens)

    common = [
        "--seq_length",
        "128",
        "--global_batch_size",
        "8",
        "--lr",
        "3e-3",
        "--clip_grad",
        "1.0",
        "--use_checkpoint_args",
    ]
    stage1 = [
        f"--train_data_path={tmp_path}/demo_stage1/demo_stage1-train",
        f"--valid_data_path={tmp_path}/demo_stage1/demo_stage1-val",
    ]
    layout = [
        "--tensor_model_parallel_size",
        "2",
        "--sequence_parallel",
        "--packing",
        "--micro_batch_size",
        "4",
        "--train_iters",
        "12",
    ]
    run(
        "megatron_train", *common, *stage1, *layout, f"--load={tmp_path}/base", f"--save={tmp_path}/stage1", processes=2
    )
    first = losses(tmp_path / "stage1")
    assert len(first) == 12
    assert first[-1] < first[0] - 0.5

    valid = tmp_path / "demo_stage2" / "demo_stage2-val"
    stage2 = [f"--train_data_path={tmp_path}/demo_stage2/demo_stage2-train", f"--valid_data_path=held_out={valid}"]
    layout = [
        "--pipeline_model_parallel_size",
        "2",
        "--finetune",
        "--hidden_dropout",
        "0.25",
        "--lima_dropout",
        "--micro_batch_size",
        "2",
        "--train_iters",
        "8",
    ]
    run(
        "megatron_train",
        *common,
        *stage2,
        *layout,
        f"--load={tmp_path}/stage1",
        f"--save={tmp_path}/stage2",
        processes=2,
    )
    second = losses(tmp_path / "stage2")
    assert len(second) == 8
    assert second[0] < first[0] - 0.5, "stage 2 starts from what stage 1 learned"

    facts = ["--license", "apache-2.0", "--language", "en,de"]
    run("checkpoint_convert", "to-hf", str(tmp_path / "stage2"), str(tmp_path / "out"), *facts)
    assert abs(transformers_loss(tmp_path / "out", valid, 129) - evaluations(tmp_path / "stage2")["held_out"]) < 1e-5

    record = json.loads((ROOT / "examples/data/gsm8k/train.jsonl").read_text().splitlines()[0])
    messages = [{"role": "user", "content": record["question"]}, {"role": "assistant", "content": record["answer"]}]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    served = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert served == ShardReader(tmp_path / "demo_stage1" / "demo_stage1-train-text")[0].tolist()

    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlanguage:\n- en\n- de\n")
    assert card.index("### stage1\n") < card.index("### stage2\n") and "| evaluation on held_out | loss " in card
    assert (tmp_path / "out" / "loss.png").is_file()
    checked = run("checkpoint_convert", "verify", "--receipt", str(tmp_path / "out"))
    assert checked.count("sound: ") == 6  # the model, three checkpoints, and two folders of shards
    assert f"replayed: iteration 1 of {tmp_path / 'stage2'}, loss {second[0]:.6f}: all figures are bitwise" in checked
