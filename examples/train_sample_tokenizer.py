"""Train the `sample` tokenizer: a small SentencePiece model of Llama's kind on the conversations of examples/data.

    python examples/train_sample_tokenizer.py            writes examples/data/tokenizer/sample.model

Deterministic: the same data gives the same bytes (one thread, no sampling, no file names in the model).
"""

import argparse
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece

from pretokenizer.records.file_names import stem_of
from pretokenizer.records.reader import read_records
from pretokenizer.sources import SOURCES, make_source
from pretokenizer.sources.source import InputRecord

DATA_DIR = Path(__file__).resolve().parent / "data"
OASST_FILE = "oasst_trees.jsonl"
VOCAB_SIZE = 3000
ALL_LANGUAGES = "bg,ca,cs,da,de,en,es,fr,hr,hu,it,nl,pl,pt,ro,ru,sl,sr,sv,uk,zh,ja,th,ko,vi"


def sentences(data_dir: Path) -> Iterator[str]:
    """Yield every line with text of every message in `data_dir`, data set by data set in alphabetical order."""
    for name in sorted(SOURCES):
        options = {"lang": ALL_LANGUAGES} if name == "oasst_export" else {}
        files = [data_dir / OASST_FILE] if name == "oasst_export" else sorted((data_dir / name).rglob("*.json*"))
        source = make_source(name, options)
        records = (
            InputRecord(number, row, stem_of(path), record)
            for number, path in enumerate(files)
            for row, record in read_records(path)
        )
        for _, converted in source.convert_all(records, random.Random(0)):
            for conversation in converted if isinstance(converted, list) else []:
                for message in conversation.messages:
                    yield from (line for line in message.text.split("\n") if line)


def train(data_dir: Path, vocab_size: int) -> bytes:
    """Return the bytes of a SentencePiece model of `vocab_size` pieces, trained on the conversations in `data_dir`."""
    return train_on(sentences(data_dir), vocab_size)


def train_on(lines: Iterator[str], vocab_size: int, **settings: Any) -> bytes:
    """Return the bytes of a SentencePiece BPE model of Llama's kind, trained on `lines`.

    `vocab_size` is the number of its pieces, and `settings` are further settings of SentencePieceTrainer.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=0.9995,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=1 << 20,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


def main() -> None:
    """Train the tokenizer that the flags describe, and write it to --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=DATA_DIR)
    parser.add_argument("--output", type=Path, default=DATA_DIR / "tokenizer" / "sample.model")
    parser.add_argument("--vocab_size", type=int, default=VOCAB_SIZE)
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_bytes(train(arguments.data_dir, arguments.vocab_size))
    print(f"{arguments.output}: {arguments.vocab_size} pieces")


if __name__ == "__main__":
    main()
