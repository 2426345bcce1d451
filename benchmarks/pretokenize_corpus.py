"""The conversations that benchmarks/pretokenize.py measures on, as one JSON-lines file in `messages` form."""

import json
import random
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.records.choose_files import list_folder
from pretokenizer.records.file_names import stem_of
from pretokenizer.records.json_text import RecordError
from pretokenizer.records.reader import read_records
from pretokenizer.sources import SOURCES, make_source
from pretokenizer.sources.messages import Messages
from pretokenizer.sources.source import InputRecord


def write_corpus(data_dir: Path, corpus: Path, text_dir: Path | None = None, text_mb: int = 0) -> None:
    """Write the conversations of all data sets in `data_dir` to the JSON-lines file `corpus` in `messages` form.

    A folder with the name of a source is read by that source, any other folder by `messages`. Conversations cut from
    the text files in `text_dir`, at most `text_mb` MiB, follow.
    """
    count = characters = 0
    source = Messages("messages", {})
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
    """Yield the conversations of a data set's folder. Unusable records are left out.

    At a file that cannot be read, print a message and stop.
    """
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
    """Cut the text files of a folder into conversations of one question and one answer, about `max_bytes` in all.

    20 to 400 characters ask, and the next 200 to 3,000 characters answer.
    """
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


def joined_by_four(corpus: Path) -> Path:
    """Write a corpus in which four conversations of `corpus` are joined into one, and return its path.

    System messages are left out. A joined corpus that exists is reused.
    """
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


def conversation_of(record: dict[str, Any]) -> Conversation:
    """Return the conversation of one record (line) of the corpus."""
    converted = Messages("messages", {}).convert(record, "train")
    assert isinstance(converted, list), converted
    return converted[0]


def conversations(corpus: Path) -> list[Conversation]:
    """Return all conversations of the corpus."""
    return [conversation_of(record) for _, record in read_records(corpus)]
