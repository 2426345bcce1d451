"""The command `parity`: show on a few CPU processes that a parallel layout trains as one process does.

    megatron-train parity --config my.yaml                             the layout of the configuration
    megatron-train parity --config my.yaml --world_size 64             with its data parallelism
    megatron-train parity --config my.yaml --layouts tp2,pp2,tp2-pp2-sp

The command takes every flag of training. It shrinks the model, trains three iterations on a sample of the data in one
process and in the layout, and compares losses, gradient norms, every gradient and every update. Weights are random,
so no checkpoint is needed. Layouts are written as tp2-pp2-vpp2-dp2-sp-overlap; parts may be left out.

Exit codes: 0 = equal, 1 = not equal, 2 = a setting or a file is wrong.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

from megatron_train.certificate.local_ranks import RankError, run_distributed
from megatron_train.certificate.plan import Certificate, asked_layouts, plan_certificate
from megatron_train.certificate.report import Result, announcement, not_shown, report_record, table, verdict
from megatron_train.config.flags import parse
from megatron_train.parity_ranks import compare_cases, record_references
from megatron_train.report.console import say
from pretokenizer.config.flags import Parser
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.publish import write_json_atomic

TIMEOUT_SECONDS = 1800.0
REPORT_NAME = "parity.json"


def main(arguments: list[str]) -> int:
    """Compare training in parallel layouts with training in one process, and print the results.

    Return 0 if every layout trains as one process does. Return 1 if one does not, or if one of its ranks fails.
    `arguments` are the words after `parity`. Raises ConfigError for a wrong flag, setting or file.
    """
    own, rest = parity_parser().parse_known_args(arguments)
    command, started = parse(rest), time.monotonic()
    if own.max_processes < 2:
        raise ConfigError(f"--max_processes is {own.max_processes}; it must be at least 2")
    layouts = asked_layouts(command, own.layouts, own.world_size)
    with tempfile.TemporaryDirectory() as folder:
        try:
            certificate = plan_certificate(command, layouts, own.max_processes, Path(folder))
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from error
        for line in announcement(certificate):
            say(line)
        try:
            results = run_certificate(certificate, Path(folder))
        except RankError as error:
            say(f"NOT EQUAL: a run of the small model ended with an error: {error}")
            return 1
    for line in (table(results), *verdict(results), *not_shown(certificate)):
        say(line)
    say(f"took {time.monotonic() - started:.0f} s")
    if own.output:
        path = Path(own.output) / REPORT_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, report_record(certificate, results))
    return 1 if any(result.failures() for result in results) else 0


def parity_parser() -> Parser:
    """Return the parser of the flags that `parity` has in addition to the flags of training."""
    parser = Parser(
        prog="megatron-train parity",
        usage="%(prog)s --config NAME_OR_FILE [flags of training] [--world_size N] [--layouts NAMES] [--output DIR]",
        description=__doc__,
    )
    parser.add_argument("--world_size", type=int, metavar="N", help="ranks of your run [those of one model copy]")
    parser.add_argument("--layouts", metavar="NAMES", help="layouts in place of the configured one: tp2,pp2,tp2-pp2-sp")
    parser.add_argument("--max_processes", type=int, default=16, metavar="N", help="most processes of a layout [16]")
    parser.add_argument("--output", metavar="DIR", help=f"folder for {REPORT_NAME}")
    return parser


def run_certificate(certificate: Certificate, folder: Path) -> list[Result]:
    """Train the reference in one process, then each case in its layout, and return a Result per case, in their order.

    The reference leaves its weights and results in `folder`, where the cases read them. Cases with the same number of
    processes share one launch. Raises RankError when a rank fails.
    """
    run_distributed(record_references, 1, certificate.small, certificate.references, folder, timeout=TIMEOUT_SECONDS)
    results: dict[int, Result] = {}
    numbered = sorted(enumerate(certificate.cases), key=lambda item: item[1].layout.world_size)
    for world, group in itertools.groupby(numbered, key=lambda item: item[1].layout.world_size):
        places, cases = zip(*group)
        differences = run_distributed(compare_cases, world, certificate.small, cases, folder, timeout=TIMEOUT_SECONDS)[
            0
        ]
        for place, case, difference in zip(places, cases, differences, strict=True):
            results[place] = Result(case.layout, case.precision, difference)
    return [results[place] for place in sorted(results)]
