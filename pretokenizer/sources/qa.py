"""Plain question and answer tables: gsm8k, joke."""

from dataclasses import dataclass

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.records.json_text import Record
from pretokenizer.sources.source import Converted, HubFiles, Source


@dataclass(frozen=True)
class FileOption:
    """A file instead of the data set's folder."""

    input_file_path: str | None = None


class Gsm8k(Source):
    """Word problems; the calculator marks and the `####` line stay. Val is the hub's test split."""

    class_name = "QADataset"
    split = "native"
    stems = ("train",)
    val_stems = ("test", "validation")
    hub = HubFiles("openai/gsm8k", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c", ("main/*.parquet",))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Nothing is filtered."""
        return [Conversation(pair(record["question"], record["answer"]), "en")]


class Joke(Source):
    """Jokes and why they are funny (the keys are spelled so)."""

    class_name = "JokeExplaination"
    shows_name = True
    Options = FileOption
    hub = HubFiles("theblackcat102/joke_explaination", "main", ("*.jsonl", "**/*.parquet"))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Nothing is filtered."""
        return [Conversation(pair(record["joke"], record["explaination"]))]
