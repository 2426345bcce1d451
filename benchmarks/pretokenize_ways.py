"""The ways that benchmarks/pretokenize.py compares. Each is a function of the corpus and the tokenizer file."""

import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pretokenize_corpus import conversation_of, conversations, joined_by_four
from pretokenizer import build
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.chat.jinja_format import TemplateFormat
from pretokenizer.config.settings import RunOptions, make_config
from pretokenizer.encode.encoder import make_encoder
from pretokenizer.encode.fast import FramedPass
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.output import assemble
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


def measure_build(corpus: Path, vocab_file: Path, workers: int = 1, chat_format: str = "chatml") -> dict[str, Any]:
    """Measure a whole build of the corpus, from JSON lines to the published folder.

    Return its CPU seconds, wall seconds and number of tokens, and the CPU seconds of each of DUTIES.
    """
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
    """Measure a whole build with chatml as a Jinja chat template in a file. Return what measure_build returns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chatml.jinja"
        path.write_text(CHATML.hf_chat_template, encoding="utf-8")
        return measure_build(corpus, vocab_file, chat_format=str(path))


def measure_encoding(corpus: Path, vocab_file: Path, as_template: bool) -> dict[str, Any]:
    """Measure the encoder alone, in batches of 1,000 conversations, with chatml built in or as a chat template.

    Return its CPU seconds and number of tokens.
    """
    tokenizer = load_tokenizer(vocab_file, CHATML.special_tokens)
    chat_format = TemplateFormat(CHATML.hf_chat_template, "chatml.jinja", tokenizer) if as_template else CHATML
    encoder, _ = make_encoder(tokenizer, chat_format)
    talks = conversations(corpus)
    started = time.process_time()
    tokens = sum(encoder.encode(talks[at : at + 1000]).tokens.size for at in range(0, len(talks), 1000))
    return {"cpu": time.process_time() - started, "tokens": tokens}


def timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """Return a wrapper of `function` that adds the CPU seconds of each call to `seconds[name]`."""

    def run(*arguments: Any, **keywords: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **keywords)
        finally:
            seconds[name] += time.process_time() - started

    return run


def measure_original(corpus: Path, vocab_file: Path) -> dict[str, Any]:
    """Measure Open-Assistant's inner loop. It encodes turn by turn, then encodes the joined text again as a check.

    Return its CPU seconds and number of tokens.
    """
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
    """Measure the reference tokenizer alone, on the texts between the control tokens of each rendered conversation.

    Return its CPU seconds and number of tokens.
    """
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
    """Measure megatron-core's IndexedDatasetBuilder alone, which writes token ids that are in memory already.

    Return its CPU seconds and number of tokens.
    """
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
    """Measure the fast tokenizer engine alone, with one call for each rendered conversation.

    Return its CPU seconds and number of tokens.
    """
    tokenizer = load_tokenizer(vocab_file, CHATML.special_tokens)
    fast = FramedPass(tokenizer, CHATML, ReferencePass(tokenizer, CHATML))
    documents = ["".join(fast.marked_pieces(c.messages)) for c in conversations(corpus)]
    started = time.process_time()
    tokens = sum(fast.engine.encode(document).size for document in documents)
    return {"cpu": time.process_time() - started, "tokens": tokens}


def plain_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Return a function that encodes text without control tokens: SentencePiece's own, or else the tokenizer's."""
    return tokenizer.processor.encode if isinstance(tokenizer, SentencePieceTokenizer) else tokenizer.encode


def rendered(corpus: Path) -> list[str]:
    """Return the text of every conversation of the corpus in chatml."""
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
    "f": lambda corpus, vocab_file: measure_encoding(corpus, vocab_file, False),
    "t": lambda corpus, vocab_file: measure_encoding(corpus, vocab_file, True),
    "F": lambda corpus, vocab_file: measure_encoding(joined_by_four(corpus), vocab_file, False),
    "T": lambda corpus, vocab_file: measure_encoding(joined_by_four(corpus), vocab_file, True),
    "1": measure_build,
    "2": lambda corpus, vocab_file: measure_build(corpus, vocab_file, workers=2),
}
