"""Run the published models: one stage, all of them in miniature, at full width on the CPU, and write their report.

    python -m examples.cards stage stage1 --card llama2-70b-oasst-sft-v10 --nproc 8    the card's launch
    python -m examples.cards stage stage1 --card falcon-7b-sft-top1-696 --tiny         in miniature, on the CPU, offline
    python -m examples.cards all [--card NAME]                                         each in miniature, to its end
    python -m examples.cards simulate --card llama2-70b-oasst-sft-v10                  its 32 ranks on the CPU
    python -m examples.cards report --card NAME --hf HF_DIR --runs CKPT_DIR...         README.md of the exported folder

`make stage1`, `stage2`, `cards`, `simulate` and `report` call these.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from examples.cards.answer import answer, read_losses
from examples.cards.card import ROOT, card_names, load_card
from examples.cards.commands import launch, module, run, shown
from examples.cards.miniature import Miniature
from megatron_train.config.flags import parse
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.validate import validate

OUTPUT = Path("output/cards")


def main() -> int:
    words, flags = split_at_dashes(sys.argv[1:])
    options = build_parser().parse_args(words)
    options.flags = flags
    os.chdir(ROOT)
    try:
        return int(options.run(options))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"error: exit code {error.returncode} of: {shown(error.cmd)}", file=sys.stderr)
        return 1


def split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the command-line words before `--`, and those after it (none without `--`)."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="examples.cards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    stage = commands.add_parser("stage", help="one stage of a card; after -- come further flags of megatron_train")
    stage.add_argument("stage", choices=("stage1", "stage2"))
    stage.add_argument("--card", required=True)
    stage.add_argument("--nproc", type=int, help="processes on this machine [8; in miniature 2]")
    stage.add_argument("--tiny", action="store_true", help="a miniature of the model on the sample data, on the CPU")
    stage.set_defaults(run=run_stage)
    every = commands.add_parser("all", help="cards in miniature: data, training, export, an answer")
    every.add_argument("--card", action="append", help="repeatable [all]")
    every.add_argument("--nproc", type=int, default=2)
    every.add_argument("--iterations", type=int, default=10)
    every.add_argument("--output_dir", type=Path, default=OUTPUT)
    every.set_defaults(run=run_all)
    simulate = commands.add_parser("simulate", help="the card's own topology on the CPU, with thin layers")
    simulate.add_argument("--card", required=True)
    simulate.set_defaults(run=run_simulation)
    report = commands.add_parser("report", help="the model card and report.html of an exported folder")
    report.add_argument("--card", required=True)
    report.add_argument("--hf", type=Path, help="exported folder [output/cards/CARD/hf]")
    report.add_argument(
        "--runs", type=Path, nargs="*", help="checkpoint folders with metrics.jsonl [output/cards/CARD/stage*]"
    )
    report.add_argument("--samples", type=Path, nargs="*", default=[], help="sampling reports for report.html")
    report.set_defaults(run=run_report)
    return parser


def run_stage(options: argparse.Namespace) -> int:
    """Run one training stage of a published model with its own launch, or in miniature with --tiny. Return exit code 0.

    The launch and the commands that make its shards and weights are printed first. Raises ValueError for wrong settings
    and CalledProcessError when a command fails.
    """
    card = load_card(options.card)
    stage = card.stage(options.stage)
    if options.tiny:
        miniature = Miniature(card, OUTPUT / card.name)
        miniature.prepare(options.stage)
        miniature.train(options.stage, options.nproc or 2, extra=tuple(options.flags))
        return 0
    flags, processes = ["--config", stage.config, *options.flags], options.nproc or 8
    command = parse(flags)
    validate(
        command, ParallelLayout.planned(command.config.parallel, processes)
    )  # before torchrun repeats an error once per process
    print(f"# shards:  {shown(module('pretokenizer', 'build', '--configs', *card.sections(stage)))}")
    if options.stage == "stage1":
        tokens = ",".join(card.extra_tokens)
        convert = module("checkpoint_convert", "from-hf", card.base_model, "CKPT_DIR", "--vocab_extra_ids_list", tokens)
        print(f"# weights: {shown(convert)}")
    print(f"# plan:    {shown(module('megatron_train', 'plan', '--config', stage.config, '--world_size', '32'))}")
    run(launch(processes, "megatron_train", *flags))
    return 0


def run_all(options: argparse.Namespace) -> int:
    """Run published models in miniature, from input records to an answer, and print a table. Return exit code 0.

    --card chooses the models, else all of them run. Their earlier results are removed.
    """
    os.environ.setdefault("OASST_DEVICE", "cpu")
    rows = []
    for name in options.card or card_names():
        started = time.perf_counter()
        card = load_card(name)
        miniature = Miniature(card, options.output_dir / name)
        shutil.rmtree(miniature.folder, ignore_errors=True)
        for stage in card.stages:
            miniature.prepare(stage)
            miniature.train(stage, options.nproc, options.iterations)
        hf = miniature.export(list(card.stages)[-1])
        answer(hf, card.generation_prompt)
        losses = [read_losses(miniature.folder / stage) for stage in card.stages]
        trained = ", ".join(f"loss {one[0]:.3f} -> {one[-1]:.3f} in {len(one)}" for one in losses)
        rows.append(f"  {name:<34} {time.perf_counter() - started:6.1f} s  {trained}")
    print("\ncards in miniature: shards, training, export, an answer through transformers\n" + "\n".join(rows))
    return 0


def run_simulation(options: argparse.Namespace) -> int:
    from examples.cards.simulate import simulate

    os.environ.setdefault("OASST_DEVICE", "cpu")
    return simulate(load_card(options.card), OUTPUT / f"{options.card}_simulated")


def run_report(options: argparse.Namespace) -> int:
    from examples.cards.report import write_report

    card = load_card(options.card)
    folder = OUTPUT / card.name
    runs = options.runs or [folder / stage for stage in card.stages]
    write_report(card, options.hf or folder / "hf", runs, options.samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
