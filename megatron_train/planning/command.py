"""The command `plan`: report the memory, time and disk that a training run needs, with no GPU, model or data present.

    python -m megatron_train plan --config configs/train/llama2-70b-oasst-sft-v10_stage1.yaml --world_size 64
    python -m megatron_train plan <the flags of a launch> --world_size 64 --suggest --gpu h200-141gb

The command takes every flag of training and a few of its own, such as --world_size. The reported sizes of weights,
gradients and optimizer state are exact; those of activations and all times are estimates, and the report says so.
"""

from __future__ import annotations

from megatron_train.config.flags import parse
from megatron_train.planning.devices import DEVICES
from megatron_train.planning.plan import make_plan
from megatron_train.planning.report import report, suggestions
from pretokenizer.config.flags import Parser


def main(arguments: list[str]) -> int:
    """Print the plan of a run and return exit code 0. `arguments` are the command-line words after `plan`.

    Raises ConfigError for a wrong flag or setting.
    """
    own, rest = plan_parser().parse_known_args(arguments)
    command = parse(rest)
    plan = make_plan(command, own)
    print(report(plan))
    if own.suggest:
        print(suggestions(command, plan))
    return 0


def plan_parser() -> Parser:
    """Return the command-line parser of the flags that `plan` has in addition to the flags of training."""
    parser = Parser(
        prog="megatron_train plan",
        usage="%(prog)s [--config FILE] [flags of training] --world_size N [--suggest]",
        description=__doc__,
    )
    parser.add_argument("--world_size", type=int, required=True, metavar="N", help="GPUs")
    parser.add_argument("--suggest", action="store_true", help="rank the layouts that fit on these GPUs")
    parser.add_argument("--gpu", choices=DEVICES, default="h100-80gb", help="kind of GPU [h100-80gb]")
    parser.add_argument("--mfu", type=float, default=0.4, help="reached share of the peak FLOP/s, for the time [0.4]")
    parser.add_argument("--vocab_size", type=int, metavar="N", help="vocabulary size of the data, if not known")
    parser.add_argument("--num_documents", type=int, metavar="N", help="documents of the training shard, if not known")
    parser.add_argument("--num_document_tokens", type=int, metavar="N", help="tokens of all documents, if not known")
    return parser
