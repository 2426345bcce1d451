"""The whole pipeline on one laptop: conversations -> shards -> stage 1 -> stage 2 -> Hugging Face folder -> answers.

    make demo                       two minutes on two cores
    make demo DATA=my.jsonl         the same on your own conversations, with a tokenizer trained on them

Each step is the command that a user types, printed before it runs. Stage 1 runs tensor + sequence parallel, stage 2
pipeline parallel from the same checkpoint. A rerun starts over.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from examples.cards.answer import read_losses
from examples.cards.card import ROOT
from examples.cards.commands import launch, module, run
from examples.demo_setup import Setup, own_setup, sample_setup

CHAT_TOKENS = "<|im_start|>,<|im_end|>"
PROMPTS = 3
LAYOUTS = {"stage1": "TP2 + sequence parallel", "stage2": "PP2, LIMA dropout"}


@dataclass
class Step:
    """One finished step of the demo, which is one line of the closing table."""

    name: str
    seconds: float
    result: str
    """Text about what the step gave, such as its losses."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("output/demo"), help="folder of all results")
    parser.add_argument("--data", type=Path, help="file of conversations in any form that `messages` reads")
    options = parser.parse_args()
    out, data = options.output_dir, options.data and options.data.resolve()
    os.chdir(ROOT)
    os.environ.setdefault("OASST_DEVICE", "cpu")  # two ranks must run on a machine with one GPU or none
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    try:
        setup = own_setup(out, data) if data else sample_setup()
        steps = [*pretokenize(out, setup), *base_model(out, setup), *train(out, setup), *export(out)]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"\ndemo: a step failed with exit code {error.returncode}: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    started = time.perf_counter()
    num_stopped = answer(out)
    verdict = f"{num_stopped} of {PROMPTS} answers end with <|im_end|>"
    steps.append(Step("answers", time.perf_counter() - started, verdict))
    print_summary(steps, out, own=bool(data))
    return 0 if num_stopped else 1


def pretokenize(out: Path, setup: Setup) -> list[Step]:
    """Write the shards of both training stages below `out`, and return a Step for each."""
    steps = []
    for stage, arguments in setup.sections.items():
        folder = out / f"data_{stage}"
        seconds = timed(module("pretokenizer", "build", *arguments, "--output_dir", folder))
        splits = json.loads((folder / "manifest.json").read_text())["splits"]
        counts = (f"{name} {part['documents']:,} documents, {part['tokens']:,} tokens" for name, part in splits.items())
        steps.append(Step(f"pretokenize {stage}", seconds, "; ".join(counts)))
    return steps


def base_model(out: Path, setup: Setup) -> list[Step]:
    """Write a small random Llama as a Hugging Face folder, and convert it to a checkpoint. Return both Steps."""
    sizes = [f"--{name}={value}" for name, value in setup.model.items()]
    command = module("examples.make_tiny_llama", out / "base_hf", "--tokenizer", setup.tokenizer, *sizes)
    made = timed([*command, "--num_key_value_heads=2"])
    convert = module("checkpoint_convert", "from-hf", out / "base_hf", out / "base", "--no_verify")
    converted = timed([*convert, "--vocab_extra_ids_list", CHAT_TOKENS])
    return [
        Step("random base model", made, str(out / "base_hf")),
        Step("from-hf", converted, f"{out / 'base'}, with two chat tokens added"),
    ]


def train(out: Path, setup: Setup) -> list[Step]:
    """Train both stages, each on two processes, and return a Step for each."""
    steps = []
    for stage, source in (("stage1", "base"), ("stage2", "stage1")):
        data = out / f"data_{stage}" / f"demo_{stage}"
        flags = ["--config", f"configs/train/demo_{stage}.yaml", "--load", out / source, "--save", out / stage]
        flags += ["--train_data_path", f"{data}-train", "--valid_data_path", f"{data}-val", *setup.training[stage]]
        seconds = timed(launch(2, "megatron_train", *flags))
        losses = read_losses(out / stage)
        result = f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in {len(losses)} iterations"
        steps.append(Step(f"{stage} ({LAYOUTS[stage]})", seconds, result))
    return steps


def export(out: Path) -> list[Step]:
    """Export the checkpoint of stage 2 to the Hugging Face folder `out`/hf, which verifies it too. Return the Step."""
    seconds = timed(module("checkpoint_convert", "to-hf", out / "stage2", out / "hf"))
    return [Step("to-hf", seconds, "weights are bitwise equal, logits agree in fp32")]


def answer(out: Path) -> int:
    """Let the exported model answer three training prompts, print the answers, and write `out`/report.html.

    Return how many answers end by themselves, with the end-of-turn token.
    """
    from examples.page.__main__ import Model, write_page
    from examples.sampling.generate import Configuration, Options, sample
    from examples.sampling.report_file import write_report

    greedy = Configuration("greedy", {"do_sample": False, "max_new_tokens": 200})
    report = sample(out / "hf", training_prompts(out), [greedy], Options())
    write_report(out / "samples.json", report)
    write_page(out / "report.html", Model("demo", [out / "stage1", out / "stage2"], out / "hf", [report]))
    outputs = [(entry["prompt"], entry["results"][0]["outputs"][0]) for entry in report["prompts"]]
    print("\nthree questions from the training data, answered through transformers:")
    for prompt, text in outputs:
        print(f"\n  user       {prompt}\n  assistant  {text.removesuffix('<|im_end|>').strip()}")
    return sum(text.endswith("<|im_end|>") for _, text in outputs)


def training_prompts(out: Path) -> list[str]:
    """Return the user messages of the PROMPTS shortest single-turn documents of stage 2, read from its train shards."""
    from pretokenizer.chat.roles import Role
    from pretokenizer.files.shard import ShardReader
    from pretokenizer.tokenizer.load import load_tokenizer_folder

    prefix = out / "data_stage2" / "demo_stage2-train"
    text, roles = ShardReader(f"{prefix}-text"), ShardReader(f"{prefix}-role")
    tokenizer = load_tokenizer_folder(out / "data_stage2" / "tokenizer")
    prompts = []
    for index in sorted(range(len(text)), key=lambda i: int(text.sizes[i])):
        turn = tokenizer.decode(text[index][roles[index] == Role.USER].tolist())
        if turn.count("<|im_start|>") == 1:
            prompts.append(turn.split("user\n", 1)[1].split("<|im_end|>")[0])
    return prompts[:PROMPTS]


def timed(command: list[str]) -> float:
    """Run a command with its output on the terminal, and return its wall seconds. Raises CalledProcessError."""
    started = time.perf_counter()
    run(command)
    return time.perf_counter() - started


def print_summary(steps: list[Step], out: Path, own: bool) -> None:
    """Print the closing table, the report's path and the next command to try.

    `own` says whether the demo ran on the user's conversations.
    """
    print("\nsummary")
    for step in steps:
        print(f"  {step.seconds:5.1f} s  {step.name:<33} {step.result}")
    print(f"  {sum(step.seconds for step in steps):5.1f} s  in all")
    print(f"model: {out / 'hf'}; report: {out / 'report.html'}")
    if own:
        print(f"next: python -m checkpoint_convert chat {out / 'hf'}")
    else:
        print("next, on your own conversations: make demo DATA=my.jsonl")


if __name__ == "__main__":
    sys.exit(main())
