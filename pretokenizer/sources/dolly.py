"""Sources dolly15k and dolly15k_multilingual: a request, a response and, in some records, a text with the answer."""

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.roles import Role
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import HubFiles
from pretokenizer.sources.source import Converted, FileOption, RecordSource
from pretokenizer.sources.text_filters import clean_context, has_filtered_phrase


def dolly_conversation(question: str, context: str | None, answer: str, lang: str | None) -> Converted:
    """Return the conversation of user, context (unless empty) and assistant, or a reason to leave the record out.

    A record is left out if its question or answer is empty or has a filtered phrase. Citation marks are removed from
    the context.
    """
    if not question or not answer:
        return "blank"
    if has_filtered_phrase(question) or has_filtered_phrase(answer):
        return "filtered phrase"
    context = clean_context(context) if context else ""
    user, assistant = Message(Role.USER, question), Message(Role.ASSISTANT, answer)
    messages = (user, Message(Role.CONTEXT, context), assistant) if context else (user, assistant)
    return [Conversation(messages, lang)]


class Dolly15k(RecordSource):
    """Source dolly15k: one conversation for each of Databricks' instructions, as Open-Assistant publishes them.

    It has the request, in some records a context, and the response.
    """

    class_name = "DatabricksDolly15k"
    Options = FileOption
    used_keys = frozenset(("INSTRUCTION", "RESPONSE", "METADATA", "instruction", "context", "response"))
    hub = HubFiles("OllieStanley/oa_dolly_15k", "main", ("*.jsonl", "**/*.parquet"))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record to a conversation.

        Its context is in METADATA; Databricks' own files have it in the key `context`.
        """
        if "INSTRUCTION" not in record and "instruction" in record:
            return dolly_conversation(record["instruction"], record["context"], record["response"], None)
        metadata = record.get("METADATA") or {}
        return dolly_conversation(record["INSTRUCTION"], metadata.get("CONTEXT"), record["RESPONSE"], None)


class Dolly15kMultilingual(RecordSource):
    """Source dolly15k_multilingual: the conversations of dolly15k in four languages.

    Each language is read from a file of its own, in the order of `stems`.
    """

    class_name = "Dolly15kMultilingual"
    stems = ("en", "de", "es", "fr")
    used_keys = frozenset(("instruction", "context", "response"))
    hub = HubFiles("argilla/databricks-dolly-15k-curated-multilingual", "main", ("**/*.parquet", "*.jsonl"))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record to a conversation. The stem of its file, such as `de`, is its language."""
        return dolly_conversation(record["instruction"], record["context"], record["response"], file_stem)
