"""Sources gsm8k, joke and webgpt: questions with answers."""

import random
from collections.abc import Iterable, Iterator

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import HubFiles
from pretokenizer.sources.source import WRONG_FORM, Converted, FileOption, InputRecord, RecordSource, Source, bad_record
from pretokenizer.sources.text_filters import remove_number_citations


class Gsm8k(RecordSource):
    """Source gsm8k: one conversation for each word problem, with its solution. The hub's test split is used as val."""

    class_name = "QADataset"
    split = "native"
    stems = ("train",)
    val_stems = ("test", "validation")
    used_keys = frozenset(("question", "answer"))
    hub = HubFiles("openai/gsm8k", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c", ("main/*.parquet",))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record to a conversation.

        The answer keeps its calculator marks (`<<1+1=2>>`) and its `####` line.
        """
        return [Conversation(pair(record["question"], record["answer"]), "en")]


class Joke(RecordSource):
    """Source joke: conversations in which the user tells a joke and the assistant explains it."""

    class_name = "JokeExplaination"
    shows_name = True
    Options = FileOption
    used_keys = frozenset(("joke", "explaination"))
    hub = HubFiles("theblackcat102/joke_explaination", "main", ("*.jsonl", "**/*.parquet"))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record to a conversation. The data set spells the key of the explanation `explaination`."""
        return [Conversation(pair(record["joke"], record["explaination"]))]


class WebGPT(Source):
    """Source webgpt: one conversation for each question, with the answer that has the highest score.

    A record holds a question, two answers and their scores, and several records may hold the same question. A record
    with an empty answer or two equal answers is left out.
    """

    class_name = "WebGPT"
    shows_name = True
    Options = FileOption
    used_keys = frozenset(("question", "answer_0", "answer_1", "score_0", "score_1"))
    hub = HubFiles("openai/webgpt_comparisons", "main", ("*.jsonl", "**/*.parquet"))

    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        """Return one conversation for each question, with its best answer.

        The conversation has the position of the question's first record. Of answers with equal scores the first one is
        taken. A later score of the same answer replaces the earlier one.
        """
        scores: dict[str, tuple[InputRecord, dict[str, float]]] = {}
        for item in records:
            row = item.record
            try:
                question = row["question"]["full_text"]
                answers = [remove_number_citations(row[key]) for key in ("answer_0", "answer_1")]
                if "" in answers or answers[0] == answers[1]:
                    yield item, "no comparison"
                    continue
                pair_scores = row["score_0"] + 0.0, row["score_1"] + 0.0
                _, known = scores.setdefault(question, (item, {}))
                known[answers[0]], known[answers[1]] = pair_scores
            except WRONG_FORM as error:
                yield item, bad_record(item.record, error)
        for question, (item, known) in scores.items():
            yield item, [Conversation(pair(question, max(known, key=known.__getitem__)), "en")]
