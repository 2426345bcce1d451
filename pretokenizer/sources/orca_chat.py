"""orca-chat: conversations whose instruction is the system message."""

from dataclasses import dataclass

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.roles import Role
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import HubFiles
from pretokenizer.sources.source import Converted, Source


@dataclass(frozen=True)
class OrcaOptions:
    """Options in a section."""

    input_file_path: str | None = None
    data_files: str | None = None
    """File on the hub. The default is the file of the card."""


class OrcaChat(Source):
    """Records with `instruction`, the system message, and `conversation`, a list of {input, output}."""

    class_name = "OrcaChat"
    shows_name = True
    Options = OrcaOptions
    hub = HubFiles("shahules786/orca-chat", "main", ("orca-chat-gpt4.json",))

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record. Nothing is filtered. An empty instruction gives no system message."""
        messages = [Message(Role.SYSTEM, record["instruction"])] if record["instruction"] else []
        for turn in record["conversation"]:
            messages.append(Message(Role.USER, turn["input"]))
            messages.append(Message(Role.ASSISTANT, turn["output"]))
        return [Conversation(tuple(messages))] if messages else "blank"
