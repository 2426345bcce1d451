"""alpaca and code_alpaca: instruction, optional input, output. Filtered after the split, part by part."""

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.records.json_text import Record
from pretokenizer.sources.qa import FileOption
from pretokenizer.sources.source import Converted, HubFiles, Source
from pretokenizer.sources.text_filters import has_filtered_phrase


class Alpaca(Source):
    """The request is instruction and input, joined by a line feed when there is an input."""

    class_name = "AlpacaBaseDataset"
    split = "torch"
    Options = FileOption
    hub = HubFiles("yahma/alpaca-cleaned", "12567cabf869d7c92e573c7c783905fc160e9639", ("alpaca_data_cleaned.json",))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """An empty list for a filtered row: it counts in the split, and gives nothing. Empty texts are kept."""
        question, answer = record["instruction"], record["output"]
        if record["input"]:
            question = f"{question}\n{record['input']}"
        if has_filtered_phrase(question) or has_filtered_phrase(answer):
            return []
        return [Conversation(pair(question, answer))]


class CodeAlpaca(Alpaca):
    """The same form, about code."""

    hub = HubFiles("sahil2801/CodeAlpaca-20k", "152bb5e9a29651266b018106053980070a0521a1", ("code_alpaca_20k.json",))
