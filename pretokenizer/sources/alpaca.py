"""alpaca and code_alpaca: records with an instruction, an optional input and an output."""

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import HubFiles
from pretokenizer.sources.source import Converted, FileOption, Source
from pretokenizer.sources.text_filters import has_filtered_phrase


class Alpaca(Source):
    """The request consists of the instruction and, after a line feed, the input unless it is empty."""

    class_name = "AlpacaBaseDataset"
    split = "torch"
    Options = FileOption
    hub = HubFiles("yahma/alpaca-cleaned", "12567cabf869d7c92e573c7c783905fc160e9639", ("alpaca_data_cleaned.json",))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record. A filtered record gives no conversation but counts in the split. Empty texts are kept."""
        question, answer = record["instruction"], record["output"]
        if record["input"]:
            question = f"{question}\n{record['input']}"
        if has_filtered_phrase(question) or has_filtered_phrase(answer):
            return []
        return [Conversation(pair(question, answer))]


class CodeAlpaca(Alpaca):
    """Instructions about code, in the form of alpaca."""

    hub = HubFiles("sahil2801/CodeAlpaca-20k", "152bb5e9a29651266b018106053980070a0521a1", ("code_alpaca_20k.json",))
