"""webgpt: comparisons of two answers; each question with its best answer."""

import random
from collections.abc import Iterable, Iterator

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.sources.dolly import NUMBER_CITATION
from pretokenizer.sources.qa import FileOption
from pretokenizer.sources.source import WRONG_FORM, Converted, HubFiles, InputRecord, Source, bad_record


class WebGPT(Source):
    """Rows are grouped by question; a row with an empty answer, or two equal ones, does not count."""

    class_name = "WebGPT"
    shows_name = True
    independent = False
    Options = FileOption
    hub = HubFiles("openai/webgpt_comparisons", "main", ("*.jsonl", "**/*.parquet"))

    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        """One conversation a question, at its first row; of equal scores the first answer counts.

        An answer seen again overwrites its score and keeps its place.
        """
        scores: dict[str, tuple[InputRecord, dict[str, float]]] = {}
        for item in records:
            row = item.record
            try:
                question = row["question"]["full_text"]
                answers = [NUMBER_CITATION.sub("", row[key]) for key in ("answer_0", "answer_1")]
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
