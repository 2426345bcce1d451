"""What the demo runs on: the shipped sample conversations, or a user's own file.

setup = sample_setup()
setup = own_setup(Path("output/demo"), Path("my.jsonl"))      # trains a tokenizer and chooses sizes from the data
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from examples.train_sample_tokenizer import train_on
from pretokenizer.records.reader import read_records
from pretokenizer.sources import make_source
from pretokenizer.sources.source import InputRecord

SAMPLE_TOKENIZER = Path("examples/data/tokenizer/sample.model")
VOCABULARY = (1000, 8000)
"""Smallest and largest vocabulary that is trained on a user's conversations, in pieces."""
CHARACTERS_PER_PIECE = 60
"""Characters of text for each piece of a new vocabulary. Less text gives a smaller vocabulary."""
LARGE_CHARACTERS = 2_000_000
"""Characters of text above which the demo takes the larger model."""
SMALL_MODEL = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
LARGE_MODEL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 6}
LONG_TEXT = 3000
"""Characters. If one conversation in ten is longer, training rows have 1,024 tokens instead of 512."""


@dataclass(frozen=True)
class Setup:
    """The settings of one demo that depend on its conversations: tokenizer, data, model and training flags."""

    tokenizer: Path
    sections: dict[str, list[str]]
    """Stage -> arguments of `pretokenizer build` that write its shards."""
    model: dict[str, int] = field(default_factory=lambda: SMALL_MODEL)
    """Sizes of the random base model, as flags of make_tiny_llama.py."""
    training: dict[str, list[str]] = field(default_factory=lambda: {"stage1": [], "stage2": []})
    """Stage -> flags that differ from configs/train/demo_STAGE.yaml."""


def sample_setup() -> Setup:
    """Return the setup of the demo on the shipped sample conversations in examples/data."""
    flags = ["sample", "--data_dir", "examples/data", "--output_dir_suffix", ""]
    return Setup(SAMPLE_TOKENIZER, {stage: ["--configs", f"demo_{stage}", *flags] for stage in ("stage1", "stage2")})


def own_setup(out: Path, data: Path) -> Setup:
    """Return the setup of the demo on `data`, a user's file of conversations.

    Train a tokenizer on the conversations, and choose the sizes of vocabulary, model and rows by the amount of text.
    The tokenizer and the data configuration are written to `out`. Raises ValueError for a file without a conversation.
    """
    texts = list(conversation_texts(data))
    if not texts:
        raise ValueError(f"{data}: holds no conversation that the source `messages` reads; see docs/data.md")
    characters = sum(map(len, texts))
    vocabulary = min(max(characters // CHARACTERS_PER_PIECE, VOCABULARY[0]), VOCABULARY[1])
    tokenizer = out / "tokenizer.model"
    tokenizer.write_bytes(train_tokenizer(iter(texts), vocabulary))
    print(f"{data}: {len(texts):,} conversations, {characters:,} characters; {tokenizer}: {vocabulary:,} pieces")
    sections = out / "my_data.yaml"
    sections.write_text(yaml.safe_dump(_sections(data, tokenizer), sort_keys=False), encoding="utf-8")
    length = "1024" if sorted(map(len, texts))[len(texts) * 9 // 10] > LONG_TEXT else "512"
    flags = ["--seq_length", length]
    return Setup(
        tokenizer,
        {stage: ["--configs", f"{sections}:demo_{stage}"] for stage in ("stage1", "stage2")},
        LARGE_MODEL if characters > LARGE_CHARACTERS else SMALL_MODEL,
        {"stage1": flags, "stage2": flags},
    )


def _sections(data: Path, tokenizer: Path) -> dict[str, Any]:
    """Return the data configuration: its section for stage 1 takes all conversations of the file `data`.

    Its section for stage 2 takes six conversations, which the model learns by heart.
    """
    entry = {"input_file_path": str(data.resolve()), "val_split": 0.1}
    common = {"vocab_file": str(tokenizer)}
    return {
        "demo_stage1": {"datasets": [{"messages": entry}], "filename_prefix": "demo_stage1", **common},
        "demo_stage2": {"datasets": [{"messages": {**entry, "size": 6}}], "filename_prefix": "demo_stage2", **common},
    }


def conversation_texts(data: Path) -> Iterator[str]:
    """Yield the text of each conversation of the file `data`: its messages, joined by line breaks."""
    records = (InputRecord(0, row, data.stem, record) for row, record in read_records(data))
    for _, converted in make_source("messages", {}).convert_all(records, random.Random(0)):
        for conversation in converted if isinstance(converted, list) else []:
            yield "\n".join(message.text for message in conversation.messages)


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> bytes:
    """Return the bytes of a SentencePiece BPE model of Llama's kind, trained on the lines of `texts`.

    `vocabulary` is the number of its pieces. Little text may give fewer.
    """
    lines = (line for text in texts for line in text.split("\n") if line)
    return train_on(lines, vocabulary, hard_vocab_limit=False)
