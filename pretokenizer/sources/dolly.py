"""dolly15k and dolly15k_multilingual: request, response and, for some, a text to answer from."""

import re

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.roles import Role
from pretokenizer.records.json_text import Record
from pretokenizer.sources.qa import FileOption
from pretokenizer.sources.source import Converted, HubFiles, Source
from pretokenizer.sources.text_filters import has_filtered_phrase

NUMBER_CITATION = re.compile(r"\[\d+(?:,\s*\d+)*\]")
_LETTER = re.compile(r"\[[a-zA-Z]\]")


def clean_context(context: str) -> str:
    """Without `[1]`, `[2, 3]`, `[citation needed]` and `[a]`, in that order; nothing is stripped."""
    if "[" not in context:
        return context
    return _LETTER.sub("", NUMBER_CITATION.sub("", context).replace("[citation needed]", ""))


def dolly_conversation(question: str, context: str | None, answer: str, lang: str | None) -> Converted:
    """User, context when there is one, assistant."""
    if not question or not answer:
        return "blank"
    if has_filtered_phrase(question) or has_filtered_phrase(answer):
        return "filtered phrase"
    context = clean_context(context) if context else ""
    user, assistant = Message(Role.USER, question), Message(Role.ASSISTANT, answer)
    messages = (user, Message(Role.CONTEXT, context), assistant) if context else (user, assistant)
    return [Conversation(messages, lang)]


class Dolly15k(Source):
    """Databricks' set in Open-Assistant's form."""

    class_name = "DatabricksDolly15k"
    Options = FileOption
    hub = HubFiles("OllieStanley/oa_dolly_15k", "main", ("*.jsonl", "**/*.parquet"))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """The context stands in METADATA."""
        metadata = record.get("METADATA") or {}
        return dolly_conversation(record["INSTRUCTION"], metadata.get("CONTEXT"), record["RESPONSE"], None)


class Dolly15kMultilingual(Source):
    """The curated set in four languages, one file each, in this order."""

    class_name = "Dolly15kMultilingual"
    stems = ("en", "de", "es", "fr")
    hub = HubFiles("argilla/databricks-dolly-15k-curated-multilingual", "main", ("**/*.parquet", "*.jsonl"))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """The language is the file's name."""
        return dolly_conversation(record["instruction"], record["context"], record["response"], file_stem)
