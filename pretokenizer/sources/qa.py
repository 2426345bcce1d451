"""gsm8k and joke: records with one question and one answer."""

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import HubFiles
from pretokenizer.sources.source import Converted, FileOption, Source


class Gsm8k(Source):
    """Word problems. The hub's test split is val."""

    class_name = "QADataset"
    split = "native"
    stems = ("train",)
    val_stems = ("test", "validation")
    hub = HubFiles("openai/gsm8k", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c", ("main/*.parquet",))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record. The calculator marks and the `####` line stay."""
        return [Conversation(pair(record["question"], record["answer"]), "en")]


class Joke(Source):
    """Jokes with explanations."""

    class_name = "JokeExplaination"
    shows_name = True
    Options = FileOption
    hub = HubFiles("theblackcat102/joke_explaination", "main", ("*.jsonl", "**/*.parquet"))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record. The data set spells the key `explaination`."""
        return [Conversation(pair(record["joke"], record["explaination"]))]
