"""Compare the speed of the pretokenizer with the tools that it replaces, on real text and one core.

    python benchmarks/pretokenize.py --data_dir data --vocab_file data/tokenizers/llama2/tokenizer.model [--rounds 5]

The conversations of every data set in DATA_DIR are written to one JSON-lines file; each way goes from there. Every
measurement is a process of its own; the ways take turns, and the median of their CPU seconds counts:

    a  this project: `build`, from JSON lines to the published folder, every default duty on
    b  Open-Assistant's inner loop: one tokenizer call per turn, everything encoded twice, one array per item
    c  the reference tokenizer alone, on the same turns, already in memory
    d  megatron-core's IndexedDatasetBuilder alone, fed ready ids one document at a time
    e  the fast engine alone, on the rendered documents, already in memory
    r  as a, without the fast engine
    m  as a, with chatml as a Jinja chat template
    8  as a, four conversations joined into one of eight turns or more
    n  as 8, with chatml as a Jinja chat template
    2  as a, with two workers (wall seconds), beside what two cores of this machine give: two of (a) at a time
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import numpy as np

from pretokenizer import build
from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.config.settings import RunOptions, make_config
from pretokenizer.encode.encoder import REFERENCE_ENV, make_encoder
from pretokenizer.encode.fast import FramedPass
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.output import assemble
from pretokenizer.records.choose_files import list_folder
from pretokenizer.records.file_names import stem_of
from pretokenizer.records.json_text import RecordError
from pretokenizer.records.reader import read_records
from pretokenizer.sources import SOURCES, make_source
from pretokenizer.sources.source import InputRecord
from pretokenizer.tasks import context, plan
from pretokenizer.tasks import runner as tasks
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

CHATML = CHAT_FORMATS["chatml"]
DUTIES = {
    "hash the inputs": (plan, "sha256_file"),
    "load the tokenizer": (context, "load_plan_tokenizer"),
    "load the engine and prove it": (tasks, "make_encoder"),
    "leak check": (assemble, "handle_duplicates"),
    "length figures": (assemble, "length_report"),
    "write shards and origins": (assemble, "write_shards"),
    "reports": (assemble, "write_reports"),
    "manifest, hashes of the output": (assemble, "make_manifest"),
    "flush to disk, publish": (build, "publish_folder"),
}


def main() -> None:
    """Prepare the corpus, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--vocab_file", type=Path, required=True)
    parser.add_argument(
        "--text_dir", type=Path, help="also *.md, *.rst, *.txt, *.py below, cut into questions and answers"
    )
    parser.add_argument("--text_mb", type=int, default=40, help="as much of it at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ways", default="abcderm8n", help="which to measure (default all but 2; add 2 on two free cores)"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(WAYS[arguments.measure](arguments.corpus, arguments.vocab_file)))
        return
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


def write_corpus(data_dir: Path, corpus: Path, text_dir: Path | None = None, text_mb: int = 0) -> None:
    """Write every conversation below DATA_DIR in `messages` form. Unknown folders are read as open forms."""
    count = characters = 0
    source = make_source("messages", {})
    with corpus.open("w", encoding="utf-8") as file:
        folders = sorted(path for path in data_dir.iterdir() if path.is_dir())
        from_data = chain.from_iterable(map(conversations_of, folders))
        from_text = conversations_of_text(text_dir, text_mb << 20) if text_dir else iter(())
        for conversation in chain(from_data, from_text):
            messages = [{"role": m.role.template_name, "content": m.text} for m in conversation.messages]
            if not isinstance(source.convert({"messages": messages}, "train"), list):
                continue  # an empty message, which this form refuses
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            count += 1
            characters += sum(len(message.text) for message in conversation.messages)
    print(f"{count:,} conversations, {characters:,} characters, {corpus.stat().st_size:,} bytes of JSON lines")


def conversations_of(folder: Path) -> Iterator[Conversation]:
    """Yield the conversations of a data set's folder. Records of another form yield none."""
    source = make_source(folder.name if folder.name in SOURCES else "messages", {})
    files = list_folder(folder).records
    records = (
        InputRecord(number, row, stem_of(path), record)
        for number, path in enumerate(files)
        for row, record in read_records(path)
    )
    try:
        for _, converted in source.convert_all(records, random.Random(0)):
            yield from converted if isinstance(converted, list) else []
    except RecordError as error:
        print(f"  left out: {folder.name}: {error}", file=sys.stderr)


def conversations_of_text(folder: Path, max_bytes: int) -> Iterator[Conversation]:
    """Cut real text into conversations: a paragraph asks, and the next 200 to 3,000 characters answer."""
    rng = random.Random(0)
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix in (".md", ".rst", ".txt", ".py") and path.is_file()
    )
    rng.shuffle(paths)
    left = max_bytes
    for path in paths:
        text = path.read_bytes()[:left].decode("utf-8", errors="ignore").replace("\0", "")
        position = 0
        while position < len(text) and left > 0:
            question = text[position : position + rng.randint(20, 400)]
            answer = text[position + len(question) : position + len(question) + rng.randint(200, 3000)]
            position += len(question) + len(answer)
            if question and answer:
                left -= len(question) + len(answer)
                yield Conversation(pair(question, answer))


def measure_in_process(way: str, corpus: Path, vocab_file: Path) -> dict[str, Any]:
    """Run one measurement in a fresh process."""
    command = [sys.executable, __file__, "--measure", way, "--corpus", str(corpus), "--vocab_file", str(vocab_file)]
    environment = {**os.environ, **({REFERENCE_ENV: "reference"} if way == "r" else {})}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure_twice(corpus: Path, vocab_file: Path) -> float:
    """Return the mean wall seconds of two simultaneous runs of (a)."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(measure_in_process, "a", corpus, vocab_file) for _ in range(2)]
        return statistics.mean(float(run.result()["wall"]) for run in runs)


def measure_build(corpus: Path, vocab_file: Path, workers: int = 1, chat_format: str = "chatml") -> dict[str, Any]:
    """Measure the whole stage, and the share of its duties."""
    seconds = dict.fromkeys(DUTIES, 0.0)
    for name, (module, function) in DUTIES.items():
        setattr(module, function, timed(getattr(module, function), name, seconds))
    with tempfile.TemporaryDirectory() as folder:
        keys = {"vocab_file": str(vocab_file), "data_dir": str(corpus.parent.parent), "output_dir": f"{folder}/out"}
        config, _ = make_config(
            {
                "datasets": [{"messages": {"val_split": 0.05}}],
                "filename_prefix": "p",
                "chat_format": chat_format,
                **keys,
            },
            "bench",
        )
        started, wall = time.process_time(), time.perf_counter()
        manifest = build.build(config, RunOptions(workers=workers))
        cpu, wall = time.process_time() - started, time.perf_counter() - wall
    seconds["read, convert, encode, origins, keys"] = cpu - sum(seconds.values())
    return {"cpu": cpu, "wall": wall, "tokens": sum(s.tokens for s in manifest.splits.values()), "seconds": seconds}


def measure_template(corpus: Path, vocab_file: Path) -> dict[str, Any]:
    """Measure the whole stage with the Jinja template of chatml, which users would give as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chatml.jinja"
        path.write_text(CHATML.hf_chat_template, encoding="utf-8")
        return measure_build(corpus, vocab_file, chat_format=str(path))


def joined_by_four(corpus: Path) -> Path:
    """Write a corpus of the same messages, four conversations in one. Return its path, beside the corpus's folder."""
    path = corpus.parents[1] / "joined" / "messages" / "train.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True)
        lines = corpus.read_text(encoding="utf-8").rstrip("\n").split("\n")
        with path.open("w", encoding="utf-8") as file:
            for start in range(0, len(lines), 4):
                messages = [m for line in lines[start : start + 4] for m in json.loads(line)["messages"]]
                spoken = [m for m in messages if m["role"] != "system"]
                file.write(json.dumps({"messages": spoken}, ensure_ascii=False) + "\n")
    return path


def timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """Wrap `function` so that its CPU time adds up under `name`."""

    def run(*arguments: Any, **keywords: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **keywords)
        finally:
            seconds[name] += time.process_time() - started

    return run


def measure_original(corpus: Path, vocab_file: Path) -> dict[str, Any]:
    """Measure the original's loop: it encodes turn by turn, then encodes the joined text again to check."""
    started = time.process_time()
    tokenizer = load_tokenizer(vocab_file, CHATML.special_tokens)
    specials = list(tokenizer.special_tokens)
    plain = plain_encoder(tokenizer)

    def encode(text: str) -> list[int]:
        if not isinstance(tokenizer, SentencePieceTokenizer):
            return tokenizer.encode(text)
        ids: list[int] = []
        position = 0
        while True:
            found = {token: text.find(token, position) for token in specials}
            found = {token: at for token, at in found.items() if at >= position}
            if not found:
                return ids + plain(text[position:])
            token = min(found, key=found.__getitem__)
            ids += [*plain(text[position : found[token]]), tokenizer.special_tokens[token]]
            position = found[token] + len(token)

    tokens = 0
    with tempfile.TemporaryFile() as text_file, tempfile.TemporaryFile() as role_file:
        for line in corpus.open(encoding="utf-8"):
            found = CHATML.turns(conversation_of(json.loads(line)).messages)
            turns = [(turn.prefix + turn.text + turn.suffix, turn.role) for turn in found]
            ids: list[int] = []
            roles: list[int] = []
            for text, role in turns:
                turn_ids = encode(text)
                ids += turn_ids
                roles += [int(role)] * len(turn_ids)
            assert encode("".join(text for text, _ in turns)) == ids
            text_file.write(np.array(ids, dtype=np.uint16).tobytes(order="C"))
            role_file.write(np.array(roles, dtype=np.uint16).tobytes(order="C"))
            tokens += len(ids)
    return {"cpu": time.process_time() - started, "tokens": tokens}


def measure_reference(corpus: Path, vocab_file: Path) -> dict[str, Any]:
    """Measure the reference tokenizer on the turns' texts between control tokens."""
    tokenizer = load_tokenizer(vocab_file, CHATML.special_tokens)
    marks = re.compile("|".join(map(re.escape, CHATML.special_tokens)))
    texts = [t for document in rendered(corpus) for t in marks.split(document) if t]
    if isinstance(tokenizer, SentencePieceTokenizer):
        started = time.process_time()
        tokens = sum(map(len, tokenizer.processor.encode(texts, num_threads=1)))
    else:
        started = time.process_time()
        tokens = sum(len(e.ids) for e in tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False))
    return {"cpu": time.process_time() - started, "tokens": tokens}


def measure_builder(corpus: Path, vocab_file: Path) -> dict[str, Any]:
    """Measure megatron-core's dataset builder."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    tokenizer = load_tokenizer(vocab_file, CHATML.special_tokens)
    batch = make_encoder(tokenizer, CHATML)[0].encode(conversations(corpus))
    documents = [ids.tolist() for ids in np.split(batch.tokens, np.cumsum(batch.document_sizes)[:-1])]
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        for name in ("text", "role"):
            builder = IndexedDatasetBuilder(f"{folder}/{name}.bin", dtype=np.uint16)
            for ids in documents:
                builder.add_item(torch.IntTensor(ids))
                builder.end_document()
            builder.finalize(f"{folder}/{name}.idx")
        cpu = time.process_time() - started
    return {"cpu": cpu, "tokens": sum(map(len, documents))}


def measure_engine(corpus: Path, vocab_file: Path) -> dict[str, Any]:
    """Measure the fast engine with one call per document."""
    tokenizer = load_tokenizer(vocab_file, CHATML.special_tokens)
    fast = FramedPass(tokenizer, CHATML, ReferencePass(tokenizer, CHATML))
    documents = ["".join(fast.marked_pieces(c.messages)) for c in conversations(corpus)]
    started = time.process_time()
    tokens = sum(fast.engine.encode(document).size for document in documents)
    return {"cpu": time.process_time() - started, "tokens": tokens}


def plain_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Return a function that encodes with one call of SentencePiece."""
    return tokenizer.processor.encode if isinstance(tokenizer, SentencePieceTokenizer) else tokenizer.encode


def conversation_of(record: dict[str, Any]) -> Conversation:
    """Return the conversation of a record of the corpus."""
    converted = make_source("messages", {}).convert(record, "train")
    assert isinstance(converted, list), converted
    return converted[0]


def conversations(corpus: Path) -> list[Conversation]:
    """Return all conversations of the corpus."""
    return [conversation_of(record) for _, record in read_records(corpus)]


def rendered(corpus: Path) -> list[str]:
    """Return the rendered text of every document."""
    return [CHATML.render(c).text for c in conversations(corpus)]


WAYS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "a": measure_build,
    "b": measure_original,
    "c": measure_reference,
    "d": measure_builder,
    "e": measure_engine,
    "r": measure_build,
    "m": measure_template,
    "8": lambda corpus, vocab_file: measure_build(joined_by_four(corpus), vocab_file),
    "n": lambda corpus, vocab_file: measure_template(joined_by_four(corpus), vocab_file),
    "1": measure_build,
    "2": lambda corpus, vocab_file: measure_build(corpus, vocab_file, workers=2),
}


def report(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print medians, ratios and shares."""
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
    for template, builtin, corpus in (("m", "a", "these conversations"), ("n", "8", "joined ones")):
        if {template, builtin} <= median.keys():
            ratio = median[template] / median[builtin]
            print(
                f"({template})/({builtin}) = {ratio:.2f}, chatml as a chat template against the built-in one, {corpus}"
            )
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
