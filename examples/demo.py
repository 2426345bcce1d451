"""The whole road on one laptop: conversations -> shards -> stage 1 -> stage 2 -> Hugging Face folder -> an answer.

    make demo                                    about 4 minutes on 2 cores
    python examples/demo.py --output_dir output/demo

Each step is the command a user would type, printed before it runs; the closing table says what it made and how long it
took. Stage 1 runs tensor + sequence parallel, stage 2 pipeline parallel from the same checkpoint. A rerun starts over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = "examples/data/tokenizer/sample.model"
PROMPTS = 3


@dataclass
class Step:
    """One line of the closing table."""

    name: str
    seconds: float
    result: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, default=Path("output/demo"), help="everything is written below it [output/demo]"
    )
    out: Path = parser.parse_args().output_dir
    os.chdir(ROOT)
    os.environ.setdefault("OASST_DEVICE", "cpu")  # two ranks must run on a machine with one GPU or none
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    try:
        steps = [*pretokenize(out), *base_model(out), *train(out), *export(out), answer(out)]
    except subprocess.CalledProcessError as error:
        print(f"\ndemo: step failed with exit code {error.returncode}: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    print_summary(steps, out)
    return 0 if not steps[-1].result.startswith("FAILED") else 1


def pretokenize(out: Path) -> list[Step]:
    steps = []
    for stage in ("demo_stage1", "demo_stage2"):
        folder = out / f"data_{stage[5:]}"
        flags = ["--data_dir", "examples/data", "--output_dir", str(folder), "--output_dir_suffix", ""]
        seconds = run("pretokenizer", "build", "--configs", stage, "sample", *flags)
        splits = json.loads((folder / "manifest.json").read_text())["splits"]
        counts = ", ".join(
            f"{name} {part['documents']:,} documents / {part['tokens']:,} tokens" for name, part in splits.items()
        )
        steps.append(Step(f"pretokenize {stage}", seconds, counts))
    return steps


def base_model(out: Path) -> list[Step]:
    hf = out / "base_hf"
    sizes = "--hidden_size=192 --intermediate_size=512 --num_hidden_layers=4 --num_attention_heads=6"
    command = [
        sys.executable,
        "examples/make_tiny_llama.py",
        str(hf),
        "--tokenizer",
        TOKENIZER,
        "--num_key_value_heads=2",
    ]
    made = run_command([*command, *sizes.split()])
    tokens = "<|im_start|>,<|im_end|>"
    converted = run("checkpoint_convert", "from-hf", str(hf), str(out / "base"), "--vocab_extra_ids_list", tokens)
    return [
        Step("random base model", made, str(hf)),
        Step("from-hf", converted, f"{out / 'base'}: two chat tokens added"),
    ]


def train(out: Path) -> list[Step]:
    steps = []
    for stage, source, layout in (
        ("stage1", "base", "TP2 + sequence parallel"),
        ("stage2", "stage1", "PP2, LIMA dropout"),
    ):
        data = out / f"data_{stage}" / f"demo_{stage}"
        flags = [
            "--config",
            f"configs/train/demo_{stage}.yaml",
            "--load",
            str(out / source),
            "--save",
            str(out / stage),
        ]
        flags += ["--train_data_path", f"{data}-train", "--valid_data_path", f"{data}-val"]
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            "2",
            "--master_port",
            free_port(),
            "-m",
            "megatron_train",
        ]
        seconds = run_command([*launcher, *flags])
        losses = read_losses(out / stage)
        steps.append(
            Step(
                f"{stage} ({layout})", seconds, f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in {len(losses)} iterations"
            )
        )
    plot_losses(out)
    return steps


def export(out: Path) -> list[Step]:
    hf = str(out / "hf")
    exported = run("checkpoint_convert", "to-hf", str(out / "stage2"), hf, "--no_verify")
    verified = run("checkpoint_convert", "verify", hf, str(out / "stage2"))
    return [Step("to-hf", exported, hf), Step("verify", verified, "weights bitwise, logits in fp32")]


def answer(out: Path) -> Step:
    """Asks prompts from the training data through transformers alone, as any user of the exported folder would."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    started = time.perf_counter()
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(out / "hf", dtype=torch.float32),
        AutoTokenizer.from_pretrained(out / "hf"),
    )
    end, stopped = tokenizer.convert_tokens_to_ids("<|im_end|>"), 0
    for prompt in training_prompts(out):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
        )
        ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
        reply = model.generate(ids, max_new_tokens=300, do_sample=False)[0, ids.shape[1] :]
        stopped += int(reply[-1]) == end
        print(
            f"\n  user       {prompt}\n  assistant  {tokenizer.decode(reply, skip_special_tokens=True).strip()}",
            flush=True,
        )
        ending = "stopped at <|im_end|>" if reply[-1] == end else "did NOT stop by itself"
        print(f"             [{len(reply)} tokens, {ending}]", flush=True)
    verdict = f"{stopped} of {PROMPTS} replies stopped at <|im_end|> by themselves"
    return Step("transformers answers", time.perf_counter() - started, verdict if stopped else f"FAILED: {verdict}")


def training_prompts(out: Path) -> list[str]:
    """The user turns of the shortest single-turn documents stage 2 was trained on, read from its shards."""
    from pretokenizer.chat.roles import Role
    from pretokenizer.files.shard import ShardReader
    from pretokenizer.tokenizer.load import load_tokenizer_folder

    prefix = out / "data_stage2" / "demo_stage2-train"
    text, roles, tokenizer = (
        ShardReader(f"{prefix}-text"),
        ShardReader(f"{prefix}-role"),
        load_tokenizer_folder(out / "data_stage2" / "tokenizer"),
    )
    prompts = []
    for index in sorted(range(len(text)), key=lambda i: int(text.sizes[i])):
        turn = tokenizer.decode(text[index][roles[index] == Role.USER].tolist())
        if turn.count("<|im_start|>") == 1 and turn.isascii():
            prompts.append(turn.split("user\n", 1)[1].split("<|im_end|>")[0])
    return prompts[:PROMPTS]


def run(module: str, *arguments: str) -> float:
    return run_command([sys.executable, "-m", module, *arguments])


def run_command(command: list[str]) -> float:
    """Runs a step with its output on the terminal; returns seconds. Raises CalledProcessError."""
    shown = ["python" if word == sys.executable else f'"{word}"' if "<" in word else word for word in command]
    print(f"\n$ {' '.join(shown)}", flush=True)
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def read_losses(folder: Path) -> list[float]:
    records = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [record["lm_loss"] for record in records if "lm_loss" in record]


def plot_losses(out: Path) -> None:
    """Leaves loss_curve.txt, and loss_curve.png where matplotlib is installed."""
    curves = {stage: read_losses(out / stage) for stage in ("stage1", "stage2")}
    text = "\n".join(f"{stage}\n{text_plot(losses)}" for stage, losses in curves.items())
    (out / "loss_curve.txt").write_text(text + "\n")
    print("\n" + text)
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    start = 0
    for stage, losses in curves.items():
        axes.plot(range(start + 1, start + len(losses) + 1), losses, label=stage)
        start += len(losses)
    axes.set(xlabel="iteration", ylabel="loss per target token", title="demo: stage 1, then stage 2")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(out / "loss_curve.png", dpi=120, bbox_inches="tight")


def text_plot(losses: list[float], width: int = 72, height: int = 10) -> str:
    """Means of `width` equal runs of iterations as a block of characters, highest loss on top."""
    edges = [round(i * len(losses) / width) for i in range(width + 1)]
    means = [sum(losses[a:b]) / (b - a) for a, b in itertools.pairwise(edges) if b > a]
    top, bottom = max(means), min(means)
    rows = [round((value - bottom) / ((top - bottom) or 1) * (height - 1)) for value in means]
    lines = []
    for level in range(height - 1, -1, -1):
        value = bottom + (top - bottom) * level / (height - 1)
        lines.append(f"{value:7.2f} |" + "".join("*" if row == level else " " for row in rows))
    return "\n".join([*lines, "        +" + "-" * len(means) + f" {len(losses)} iterations"])


def print_summary(steps: list[Step], out: Path) -> None:
    print("\nsummary")
    for step in steps:
        print(f"  {step.seconds:6.1f} s  {step.name:<34} {step.result}")
    print(f"  {sum(step.seconds for step in steps):6.1f} s  altogether")
    print(f"loss curve: {out / 'loss_curve.txt'}; data report: {out / 'data_stage1' / 'stats.md'}; model: {out / 'hf'}")


if __name__ == "__main__":
    sys.exit(main())
