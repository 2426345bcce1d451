"""Sources whose records are one request and one response: alpaca, oa_leet10k, megacode2 and others.

alpaca and code_alpaca keep the order of their file. megacode2, megacode3, oa_leet10k and grade_school_math_instructions
visit their records in the order of `random.Random(seed).shuffle`, and leave out blank records and records with a
filtered phrase. With `fill_min_length`, they join consecutive records into one conversation.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import HubFiles
from pretokenizer.sources.source import Converted, FileOption, InputRecord, RecordSource
from pretokenizer.sources.text_filters import has_filtered_phrase


@dataclass(frozen=True)
class InstructionOptions:
    """Options that a configuration section may set for a data set with an `Instruction` source."""

    input_file_path: str | None = None
    instruction_column: str | None = None
    """Key of a record that holds the request. Each source has its own default."""
    response_column: str | None = None
    """Key of a record that holds the response. Each source has its own default."""
    lang: str | None = None
    seed: int = 42
    """Seed of the order in which the records are visited."""
    fill_min_length: int | None = None
    """Join records until the conversation has more than this many characters. Default: records are not joined."""


class Instruction(RecordSource):
    """Base class of sources that turn each record into a request of the user and a response of the assistant.

    Blank records and records with a filtered phrase are left out. The records are visited in shuffled order.
    """

    class_name = "InstructionDataset"
    shows_name = True
    Options = InstructionOptions
    columns: ClassVar[tuple[str, str]] = ("INSTRUCTION", "RESPONSE")
    """Default keys of the request and the response in a record."""
    lang: ClassVar[str | None] = None

    @property
    def independent(self) -> bool:  # type: ignore[override]
        """Whether records are converted one by one.

        With `fill_min_length` they are joined, so all are needed at once.
        """
        return self.options.fill_min_length is None

    @property
    def used_keys(self) -> frozenset[str]:  # type: ignore[override]
        """Keys of a record that hold the request and the response."""
        return frozenset((self.request_column, self.response_column))

    @property
    def request_column(self) -> str:
        """Key of a record that holds the request."""
        return self.options.instruction_column or self.columns[0]

    @property
    def response_column(self) -> str:
        """Key of a record that holds the response."""
        return self.options.response_column or self.columns[1]

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record to a conversation of two messages, or return the reason to leave it out."""
        question, answer = record[self.request_column], record[self.response_column]
        if question is None or answer is None or not question.strip() or not answer.strip():
            return "blank"
        if has_filtered_phrase(question) or has_filtered_phrase(answer):
            return "filtered phrase"
        return [Conversation(pair(question, answer), self.options.lang or self.lang)]

    def order(self, num_records: int) -> list[int] | None:
        """Return the shuffled order of the records, the same as in Open-Assistant.

        Return None if records are joined, because `convert_all` has shuffled them already.
        """
        if not self.independent:
            return None
        order = list(range(num_records))
        random.Random(self.options.seed).shuffle(order)
        return order

    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        """Convert all records to conversations, one for each record.

        If `fill_min_length` is set, join records in shuffled order until a conversation has more characters than that.
        """
        if self.independent:
            yield from super().convert_all(records, rng)
            return
        items = list(records)
        order = list(range(len(items)))
        random.Random(self.options.seed).shuffle(order)
        joined: list[Message] = []
        for index in order:
            converted = self.convert_checked(items[index])
            if not isinstance(converted, list):
                yield items[index], converted
                continue
            joined += converted[0].messages
            if sum(len(message.text) for message in joined) > self.options.fill_min_length:
                yield items[index], [Conversation(tuple(joined), converted[0].lang)]
                joined = []
        if joined:
            yield items[order[-1]], [Conversation(tuple(joined), self.options.lang or self.lang)]


class Megacode2(Instruction):
    """Source megacode2: code questions with answers, deduplicated by their publisher."""

    columns = ("USER", "ASSISTANT")
    hub = HubFiles(
        "rombodawg/LosslessMegaCodeTrainingV2_1m_Evol_Uncensored",
        "main",
        ("DeDuped_LosslessMegaCodeTrainingV2_942k_Evol_Uncensored.json",),
    )


class Megacode3(Instruction):
    """Source megacode3: code questions with answers, the larger successor of megacode2."""

    columns = ("USER", "ASSISTANT")
    hub = HubFiles(
        "rombodawg/LosslessMegaCodeTrainingV3_2.2m_Evol", "main", ("LosslessMegaCodeTrainingV3_2.2m_Evol.json",)
    )


class OaLeet10k(Instruction):
    """Source oa_leet10k: programming problems with solutions in several programming languages."""

    hub = HubFiles("ehartford/oa_leet10k", "main", ("*.jsonl", "*.json", "**/*.parquet"))


class GradeSchoolMath(Instruction):
    """Source grade_school_math_instructions: arithmetic word problems with solutions."""

    lang = "en"
    hub = HubFiles("qwedsacf/grade-school-math-instructions", "main", ("*.jsonl", "**/*.parquet"))


class Alpaca(RecordSource):
    """Source alpaca: one conversation of a request and a response for each record.

    The request is the instruction and, after a line feed, the input unless it is empty.
    """

    class_name = "AlpacaBaseDataset"
    split = "torch"
    Options = FileOption
    used_keys = frozenset(("instruction", "input", "output"))
    hub = HubFiles("yahma/alpaca-cleaned", "12567cabf869d7c92e573c7c783905fc160e9639", ("alpaca_data_cleaned.json",))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record to a conversation. Empty texts are kept.

        A record with a filtered phrase gives no conversation but counts when records are split into train and val.
        """
        question, answer = record["instruction"], record["output"]
        if record["input"]:
            question = f"{question}\n{record['input']}"
        if has_filtered_phrase(question) or has_filtered_phrase(answer):
            return []
        return [Conversation(pair(question, answer))]


class CodeAlpaca(Alpaca):
    """Source code_alpaca: instructions about code, in the form of alpaca."""

    hub = HubFiles("sahil2801/CodeAlpaca-20k", "152bb5e9a29651266b018106053980070a0521a1", ("code_alpaca_20k.json",))
