"""Sources vicuna and orca-chat: conversations in the forms of these two data sets.

vicuna is cleaned as in Open-Assistant. A conversation is left out if it does not begin with `human` or has an empty
`gpt` message. A random filler replaces an empty `human` message. Escapes and citations are removed, messages are
stripped, and consecutive messages of one speaker are joined.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.chat.roles import Role
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import HubFiles
from pretokenizer.sources.source import WRONG_FORM, Converted, InputRecord, RecordSource, Source, bad_record

FILLERS = ("...", "Please continue", "Go on", "")
"""Texts that replace an empty message of the user."""
_CITATION = re.compile(r"\[\s?\d+\s?\]")


@dataclass(frozen=True)
class VicunaOptions:
    """Options that a configuration section may set for the data set vicuna."""

    input_file_path: str | None = None
    input_max_length: int = 32768
    """Maximum length of a joined message, in characters. The rest is cut."""


class Vicuna(Source):
    """Source vicuna: one cleaned conversation of user and assistant for each record.

    A record has `conversations`, a list of {from, value} with the speakers `human` and `gpt`. Cleaning removes escapes
    and citations, joins consecutive messages of one speaker, and replaces an empty message of the user. A record that
    does not begin with the user, or has an empty reply, is left out.
    """

    class_name = "Vicuna"
    shows_name = True
    uses_random = True
    Options = VicunaOptions
    used_keys = frozenset(("conversations",))
    hub = HubFiles(
        "Aeala/ShareGPT_Vicuna_unfiltered",
        "8b0048ad6ae8c22f46a78c15559dec98feef5539",
        ("ShareGPT_V4.3_unfiltered_cleaned_split.json",),
    )

    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        """Convert all records to conversations.

        Their order counts: each filler is drawn from the shared random generator.
        """
        for item in records:
            try:
                yield item, self._convert_turns(item.record["conversations"], rng)
            except WRONG_FORM as error:
                yield item, bad_record(item.record, error)

    def _convert_turns(self, turns: list[dict[str, Any]], rng: random.Random) -> Converted:
        """Return the cleaned conversation of a record's turns, or the reason to leave the record out."""
        if not turns or turns[0]["from"] != "human":
            return "does not begin with human"
        runs: list[tuple[str, list[str]]] = []
        for turn in turns:
            speaker, text = turn["from"], turn["value"]
            if not text and speaker == "gpt":
                return "empty reply"
            if not text:
                text = rng.choice(FILLERS) if speaker == "human" else ""
            if not runs or runs[-1][0] != speaker:
                runs.append((speaker, []))
            runs[-1][1].append(clean(text))
        texts = [(speaker, "\n".join(parts)[: self.options.input_max_length]) for speaker, parts in runs]
        questions = [text for speaker, text in texts if speaker == "human"]
        answers = [text for speaker, text in texts if speaker == "gpt"]
        if len(questions) != len(answers):
            return "unequal numbers of questions and answers"
        return [Conversation(tuple(chain.from_iterable(map(pair, questions, answers))))]


def clean(text: str) -> str:
    """Remove the backslash of `\\_` and `\\*`, remove citations like `[3]`, and strip the text."""
    return _CITATION.sub("", text.replace(r"\_", "_").replace(r"\*", "*")).strip()


@dataclass(frozen=True)
class OrcaOptions:
    """Options that a configuration section may set for the data set orca-chat."""

    input_file_path: str | None = None
    data_files: str | None = None
    """Accepted so that sections written for Open-Assistant load. It has no effect: `hub` names the file."""


class OrcaChat(RecordSource):
    """Source orca-chat: one conversation of system, user and assistant for each record.

    A record has `instruction`, the system message, and `conversation`, a list of {input, output}.
    """

    class_name = "OrcaChat"
    shows_name = True
    Options = OrcaOptions
    used_keys = frozenset(("instruction", "conversation"))
    hub = HubFiles("shahules786/orca-chat", "main", ("orca-chat-gpt4.json",))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record to a conversation. An empty instruction gives no system message.

        No text is filtered or changed. A record without any message is left out.
        """
        messages = [Message(Role.SYSTEM, record["instruction"])] if record["instruction"] else []
        for turn in record["conversation"]:
            messages.append(Message(Role.USER, turn["input"]))
            messages.append(Message(Role.ASSISTANT, turn["output"]))
        return [Conversation(tuple(messages))] if messages else "blank"
