"""Compare the speed of the pretokenizer with the tools that it replaces, on real text and one core.

    python benchmarks/pretokenize.py --data_dir data --vocab_file data/tokenizers/llama2/tokenizer.model [--rounds 5]

Without --data_dir and --vocab_file, it reads the sample conversations. It writes the conversations of every data set in
DATA_DIR to one JSON-lines file, which every way reads. Each measurement is a process of its own. The ways take turns,
and the median of their CPU seconds counts:

    a  this project: `build`, from JSON lines to the published folder, every default duty on
    b  Open-Assistant's inner loop: one tokenizer call per turn, everything encoded twice, one array per item
    c  the reference tokenizer alone, on the same turns, already in memory
    d  megatron-core's IndexedDatasetBuilder alone, fed ready ids one document at a time
    e  the fast engine alone, on the rendered documents, already in memory
    r  as a, without the fast engine
    m  as a, with chatml as a Jinja chat template
    8  as a, four conversations joined into one of eight turns or more
    n  as 8, with chatml as a Jinja chat template
    f  encoding alone, conversations already in memory, chatml built in
    t  as f, with chatml as a Jinja chat template
    F  as f, four conversations joined
    T  as t, four conversations joined
    2  as a, with two workers (wall seconds), beside what two cores of this machine give: two of (a) at a time
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

from benchmarks.pretokenize_corpus import write_corpus
from benchmarks.pretokenize_ways import WAYS
from pretokenizer.encode.encoder import REFERENCE_ENV

TEMPLATE_PAIRS = (
    ("m", "a", "whole build, these conversations"),
    ("n", "8", "whole build, joined ones"),
    ("t", "f", "encoding alone, these conversations"),
    ("T", "F", "encoding alone, joined ones"),
)
SAMPLE = Path(__file__).resolve().parent.parent / "examples" / "data"


def main() -> None:
    """Write the corpus, measure each way in turn for several rounds, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=SAMPLE)
    parser.add_argument("--vocab_file", type=Path, default=SAMPLE / "tokenizer" / "sample.model")
    parser.add_argument(
        "--text_dir", type=Path, help="also *.md, *.rst, *.txt, *.py below, cut into questions and answers"
    )
    parser.add_argument("--text_mb", type=int, default=40, help="as much of it at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ways", default="abcderm8nftFT", help="which to measure (default all but 2; add 2 on two free cores)"
    )
    parser.add_argument("--small", action="store_true", help="one round of four ways: tries the program")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(WAYS[arguments.measure](arguments.corpus, arguments.vocab_file)))
        return
    if arguments.small:
        arguments.rounds, arguments.ways = 1, "abcm"
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "messages" / "train.jsonl"
        corpus.parent.mkdir()
        write_corpus(arguments.data_dir, corpus, arguments.text_dir, arguments.text_mb)
        results: dict[str, list[dict[str, Any]]] = {way: [] for way in arguments.ways}
        for _ in range(arguments.rounds):
            for way, measured in results.items():
                measured.append(measure_in_process(way, corpus, arguments.vocab_file))
                if way == "2":
                    measured[-1]["twice"] = measure_twice(corpus, arguments.vocab_file)
        report(results)


def measure_in_process(way: str, corpus: Path, vocab_file: Path) -> dict[str, Any]:
    """Run one measurement of `way`, a key of WAYS, in a new process, and return its figures.

    They are CPU seconds, tokens, and more for some ways.
    """
    command = [sys.executable, __file__, "--measure", way, "--corpus", str(corpus), "--vocab_file", str(vocab_file)]
    environment = {**os.environ, **({REFERENCE_ENV: "reference"} if way == "r" else {})}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure_twice(corpus: Path, vocab_file: Path) -> float:
    """Return the mean wall seconds of two simultaneous runs of the way `a`, a whole build on one core."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(measure_in_process, "a", corpus, vocab_file) for _ in range(2)]
        return statistics.mean(float(run.result()["wall"]) for run in runs)


def report(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print the medians of each way, ratios between ways, and the share of each duty in a build.

    `results` maps a way to the figures of each round.
    """
    median = {way: statistics.median(m["cpu"] for m in measured) for way, measured in results.items()}
    print(f"\n{'way':4} {'CPU s':>8} {'min':>8} {'Mtok/s':>8} {'tokens':>12}")
    for way, measured in results.items():
        tokens = measured[0]["tokens"]
        least = min(m["cpu"] for m in measured)
        print(f"{way:4} {median[way]:8.3f} {least:8.3f} {tokens / median[way] / 1e6:8.2f} {tokens:12,}")
    for way in "bcd":
        if way in median and "a" in median:
            print(f"({way})/(a) = {median[way] / median['a']:.2f}")
    if {"b", "r"} <= median.keys():
        print(f"(b)/(r) = {median['b'] / median['r']:.2f}, without the fast engine")
    for template, builtin, what in TEMPLATE_PAIRS:
        if {template, builtin} <= median.keys():
            ratio = median[template] / median[builtin]
            print(f"({template})/({builtin}) = {ratio:.2f}, chatml as a chat template beside the built-in one, {what}")
    if {"a", "2"} <= results.keys():
        one, two = (statistics.median(m["wall"] for m in results[way]) for way in "a2")
        cores = 2 * one / statistics.median(m["twice"] for m in results["2"])
        print(f"two workers: {one:.2f} s -> {two:.2f} s, {one / two:.2f} x; two cores give {cores:.2f} x at most")
    if "a" in results:
        print("\nwhere (a) spends it:")
        for name in results["a"][0]["seconds"]:
            seconds = statistics.median(m["seconds"][name] for m in results["a"])
            print(f"  {name:40} {seconds:7.3f} s {seconds / median['a']:6.1%}")


if __name__ == "__main__":
    main()
