"""Conversations become shards, two training stages in two layouts, and a folder with the same loss in transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from examples import make_tiny_llama
from pretokenizer.chat.roles import Role
from pretokenizer.files.shard import ShardReader
from tests.forked import run_forked
from tests.paths import ROOT


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


def test_conversations_become_a_model_that_transformers_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = "--hidden_size 64 --intermediate_size 128 --num_hidden_layers 2 --num_attention_heads 4"
    tokenizer = ROOT / "examples/data/tokenizer/sample.model"
    words = f"{tmp_path}/hf --tokenizer {tokenizer} {sizes} --num_key_value_heads 2".split()
    monkeypatch.setattr(sys, "argv", ["make_tiny_llama.py", *words])
    assert make_tiny_llama.main() == 0
    data = f"--data_dir {ROOT}/examples/data --output_dir_suffix= --output_dir {tmp_path}"
    common = "--seq_length 128 --global_batch_size 8 --lr 3e-3 --clip_grad 1.0 --use_checkpoint_args"
    stage1 = (
        f"--load {tmp_path}/base --save {tmp_path}/stage1 --train_data_path {tmp_path}/data1/demo_stage1-train"
        f" --valid_data_path {tmp_path}/data1/demo_stage1-val --tensor_model_parallel_size 2 --sequence_parallel"
        " --packing --micro_batch_size 4 --train_iters 12"
    )
    stage2 = (
        f"--load {tmp_path}/stage1 --save {tmp_path}/stage2 --train_data_path {tmp_path}/data2/demo_stage2-train"
        f" --valid_data_path held_out={tmp_path}/data2/demo_stage2-val --pipeline_model_parallel_size 2 --finetune"
        " --hidden_dropout 0.25 --lima_dropout --micro_batch_size 2 --train_iters 8"
    )
    shown = run_forked(
        tmp_path,
        f"1 pretokenizer build --configs demo_stage1 sample {data}/data1",
        f"1 pretokenizer build --configs demo_stage2 sample {data}/data2",
        f"1 converter from-hf hf {tmp_path}/base --vocab_extra_ids_list '<|im_start|>,<|im_end|>'",
        f"1 trainer launch --nproc_per_node 2 {common} {stage1}",
        f"2 trainer {common} {stage2}",
        f"1 converter to-hf {tmp_path}/stage2 {tmp_path}/out --license apache-2.0 --language en,de",
        f"1 converter verify --receipt {tmp_path}/out",
    )
    first, second = losses(tmp_path / "stage1"), losses(tmp_path / "stage2")
    assert (len(first), len(second)) == (12, 8)
    assert first[-1] < first[0] - 0.5
    assert second[0] < first[0] - 0.5, "stage 2 does not start from stage 1"

    held_out = evaluations(tmp_path / "stage2")["held_out"]
    assert abs(transformers_loss(tmp_path / "out", tmp_path / "data2" / "demo_stage2-val", 129) - held_out) < 1e-5

    record = json.loads((ROOT / "examples/data/gsm8k/train.jsonl").read_text().splitlines()[0])
    messages = [{"role": "user", "content": record["question"]}, {"role": "assistant", "content": record["answer"]}]
    served_by = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    served = served_by.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert served == ShardReader(tmp_path / "data1" / "demo_stage1-train-text")[0].tolist()

    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlanguage:\n- en\n- de\n")
    assert card.index("### stage1\n") < card.index("### stage2\n") and "| evaluation on held_out | loss " in card
    assert (tmp_path / "out" / "loss.png").is_file()
    assert shown.count("sound: ") == 6  # the model, three checkpoints, and two folders of shards
    assert f"replayed: iteration 1 of {tmp_path / 'stage2'}, loss {second[0]:.6f}: all figures are bitwise" in shown
