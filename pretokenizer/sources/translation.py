"""Sources wmt2019_zh-en, ted_trans_en-ja and ted_trans_zh-ja: sentence pairs as translation requests.

For each record the shared random generator draws the direction and a request template of the target language. One
request in five gets an earlier exchange: a record at most 5 positions away on the same side of the split.
Open-Assistant's code is meant to do the same but stops with an error at the first such request.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.records.locate import HubFiles
from pretokenizer.sources.source import (
    WRONG_FORM,
    Converted,
    FileOption,
    InputRecord,
    Source,
    bad_record,
    wrong_text,
)
from pretokenizer.sources.splits import split_sklearn

MAX_ROWS = 100_001
"""Maximum number of records that are read of a data set."""
HISTORY_SHARE = 0.2
"""Share of the requests that get an earlier exchange."""
HISTORY_DISTANCE = 5
"""Maximum distance, in records, between a request and the record that gives its earlier exchange."""
TEMPLATES = {
    "zh": (
        "Please translate this into Chinese: {}",
        "{}\nHow would you say that in Chinese?",
        "What is the Chinese for the following? {}",
        "请把下面的内容译成中文：{}",
        "{}\n这段话用中文怎么说？",
        "帮我把这句话翻成中文：{}",
    ),
    "ja": (
        "Please translate this into Japanese: {}",
        "{}\nHow would you say that in Japanese?",
        "What is the Japanese for the following? {}",
        "次の文を日本語に訳してください：{}",
        "{}\nこれは日本語で何と言いますか？",
        "この文章を日本語にしてください：{}",
    ),
    "en": (
        "Please translate this into English: {}",
        "{}\nHow would you say that in English?",
        "What is the English for the following? {}",
    ),
}
"""Target language -> templates of the request.

There are as many as in Open-Assistant, so that the random draws match. The wording is our own.
"""


class Translation(Source):
    """Base class of translation sources: a request to translate a text, and the translation, for each record.

    A record has `translation`, a mapping from language to text. One request in five gets an earlier exchange.
    """

    uses_random = True
    Options = FileOption
    used_keys = frozenset(("translation",))
    languages: ClassVar[tuple[str, str]]
    """The two languages of a record. The direction of each request is drawn at random."""

    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        """Convert the first MAX_ROWS records to conversations. The others are not read.

        All requests are drawn first, because an earlier exchange may come from a later record. To save memory, the
        record of a converted item is emptied. Records of a wrong form are yielded before all conversations.
        """
        items, requests = [], []
        for item in islice(records, MAX_ROWS):
            try:
                request = self._request(item.record["translation"], rng)
            except WRONG_FORM as error:
                yield item, bad_record(item.record, error)
                continue
            if wrong := wrong_text([Conversation(request)]):
                yield item, wrong
                continue
            requests.append(request)
            items.append(item._replace(record={}))
        sides = self._sides(len(items))
        history_rng = random.Random(len(items))
        for index, item in enumerate(items):
            earlier = self._history(index, requests, sides, history_rng)
            yield item, [Conversation((*earlier, *requests[index]))]

    def _request(self, texts: Mapping[str, Any], rng: random.Random) -> tuple[Message, Message]:
        """Return a request to translate one of `texts`, and the translation. `rng` draws direction and wording."""
        source, target = self.languages
        if not rng.random() > 0.5:
            source, target = target, source
        return pair(rng.choice(TEMPLATES[target]).replace("{}", texts[source]), texts[target])

    def _history(
        self, index: int, requests: list[tuple[Message, Message]], sides: list[bool], rng: random.Random
    ) -> tuple[Message, ...]:
        """Return the earlier exchange of request `index`, from a near record on the same side of the split, or ()."""
        if rng.random() >= HISTORY_SHARE:
            return ()
        first = max(0, index - HISTORY_DISTANCE)
        near = [i for i in range(first, min(len(requests), index + HISTORY_DISTANCE + 1)) if i != index]
        near = [i for i in near if sides[i] == sides[index]]
        return requests[rng.choice(near)] if near else ()

    def _sides(self, count: int) -> list[bool]:
        """Return for each of `count` records whether it belongs to val. With separate val files, none does."""
        sides = [False] * count
        if self.split == "sklearn":
            _, val = split_sklearn(count, self.val_split)
            for index in [] if val is None else val.tolist():
                sides[index] = True
        return sides


class Wmt2019ZhEn(Translation):
    """Source wmt2019_zh-en: news sentences in Chinese and English. The hub's validation split is used as val."""

    class_name = "WMT2019"
    split = "native"
    stems = ("train",)
    val_stems = ("validation",)
    languages = ("zh", "en")
    hub = HubFiles("wmt/wmt19", "main", ("zh-en/*.parquet",))


class TedEnJa(Translation):
    """Source ted_trans_en-ja: talks in English and Japanese.

    The hub has only a loading script, so the user downloads the files by hand.
    """

    class_name = "TEDTalk"
    languages = ("en", "ja")


class TedZhJa(Translation):
    """Source ted_trans_zh-ja: talks in Chinese and Japanese. The user downloads the files by hand."""

    class_name = "TEDTalk"
    languages = ("zh", "ja")
