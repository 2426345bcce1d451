"""Sources for your own conversations in the usual open forms: `messages`, `sharegpt`, `prompt_response`, `ikala`.

Each of these names reads every form in forms.py: OpenAI's messages with tools, ShareGPT, Alpaca, Dolly, prompts with
completions, preference pairs, plain text. The key `train`, `weight`, `loss` or `loss_mask` of a message, of any role,
says whether it gets loss. If a record has an unused key that changes what should be learned, it is a bad record.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.chat.roles import Role
from pretokenizer.forms.errors import UnusableError
from pretokenizer.forms.foreign import not_preferred
from pretokenizer.forms.keys import common_form, is_plain_text
from pretokenizer.forms.record import open_record
from pretokenizer.forms.tools import name_of
from pretokenizer.forms.turns import (
    ROLES,
    Turn,
    in_order,
    message_of,
    refuse_unused,
    regular_messages,
    role_of,
)
from pretokenizer.records.json_text import Record
from pretokenizer.sources.source import BadRecord, Converted, RecordSource

_MAX_SHAPES = 1000
"""Maximum number of different lists of record keys whose form is cached."""


@dataclass(frozen=True)
class MessagesOptions:
    """Options that a configuration section may set for a data set of the source `messages`."""

    input_file_path: str | None = None
    lang: str | None = None
    """Language of records that do not name their own."""
    loss: Literal["roles", "all"] = "roles"
    """Messages that get loss: those of the assistant, or `all`. Records of plain text need `all`."""
    preference: Literal["chosen"] | None = None
    """Read the preferred reply of preference pairs, and leave out the rejected reply."""
    ignore: list[str] = field(default_factory=list)
    """Keys to ignore in records and messages, although they change what should be learned."""


class Messages(RecordSource):
    """Source messages: converts the user's own records, in any usual form, to conversations."""

    class_name = "ConversationDataset"
    shows_name = True
    Options = MessagesOptions

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._regular_keys: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._has_options = self.options.loss == "all" or bool(self.options.preference or self.options.ignore)

    def note_fields(self, record: Record) -> None:
        """Add the keys of a simple record that the source does not use to `unused`, which the report lists.

        A simple record holds messages, or a request and a reply, and nothing else with a meaning. For all other
        records, `convert` adds the keys.
        """
        if keys := self._common_form(record):
            self.unused.update(record.keys() - {*keys, "lang", "language"})

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record of any usual form to a conversation.

        A conversation without a message to learn from is left out. A record that cannot be used gives a BadRecord.
        """
        if messages := self._regular(record):
            return [Conversation(messages, self._lang(record))]
        if self.options.ignore:
            record = {key: value for key, value in record.items() if key not in self.options.ignore}
        try:
            return self._convert(record)
        except UnusableError as error:
            return BadRecord(error.reason, error.found)

    def _common_form(self, record: Record) -> tuple[str, ...]:
        """Return (key of the messages,) or (key of the request, key of the reply) of a simple conversation.

        Return () for a record of another form, if another of its keys has a meaning, such as `tools`, or if the user's
        options need the slow path.
        """
        shape = tuple(record)
        keys = self._regular_keys.get(shape)
        if keys is None:
            keys = () if self._has_options else common_form(shape)
            if len(self._regular_keys) < _MAX_SHAPES:
                self._regular_keys[shape] = keys
        return keys

    def _regular(self, record: Record) -> tuple[Message, ...] | None:
        """Return the messages of a record that needs no special treatment, such as tools or loss marks, else None.

        Most records take this fast path.
        """
        keys = self._common_form(record)
        if len(keys) == 1:
            return regular_messages(record[keys[0]])
        if len(keys) == 2:
            request, reply = record[keys[0]], record[keys[1]]
            if request and reply and request.__class__ is str is reply.__class__:
                return pair(request, reply)
        return None

    def _convert(self, record: Record) -> Converted:
        if self.options.loss == "all" and is_plain_text(record):
            return self._plain_text(record)
        if self.options.preference and (reason := not_preferred(record)):
            return reason
        turns, tools, used = open_record(record, self.options.preference)
        notes: set[str] = set()
        messages = in_order(self._messages(turns, notes), self.consecutive_roles, notes)
        if not any(message.role is Role.ASSISTANT or message.train for message in messages):
            return "no assistant message"
        if tools and messages[0].role is Role.SYSTEM and all(name_of(tool) in messages[0].text for tool in tools):
            notes.add("the system message names the tools that `tools` lists")
        if len(record) > 1:
            self._note_unused(record, used)
        self.irregular.update(notes)
        return [Conversation(messages, self._lang(record), tools)]

    def _messages(self, turns: list[Turn], notes: set[str]) -> list[Message]:
        messages: list[Message] = []
        for turn in turns:
            role, text = ROLES.get(turn["role"]), turn.get("content")
            if role is not None and text.__class__ is str and text and len(turn) == 2 and turn["role"] in _PLAIN:
                messages.append(Message(role, text))
                continue
            if role is None:
                role = role_of(turn["role"])
            if role in (Role.SYSTEM, Role.CONTEXT) and not text:
                for key in turn:
                    if key not in ("content", *self.options.ignore):
                        refuse_unused(key, turn[key])
                notes.add(f"an empty {role.template_name} message is dropped")
                continue
            messages.append(message_of(role, turn, self.options.ignore, self.unused))
        if self.options.loss == "all":
            messages = [message if message.train is False else message._replace(train=True) for message in messages]
        return messages

    def _plain_text(self, record: Record) -> Converted:
        self._note_unused(record, {"text"})
        if not record["text"]:
            return "blank"
        return [Conversation((Message(Role.ASSISTANT, record["text"], True),), self._lang(record), is_plain=True)]

    def _note_unused(self, record: Record, used: set[str]) -> None:
        """Add the keys of a record that are not in `used` to `unused`, which the report lists.

        Raises UnusableError for a key that changes what should be learned.
        """
        for key in record:
            if key not in used and key not in ("lang", "language"):
                refuse_unused(key, record[key])
                self.unused.add(key)

    def _lang(self, record: Record) -> str | None:
        lang = record.get("lang") or record.get("language") or self.options.lang
        return lang if isinstance(lang, str) else None


_PLAIN = frozenset(name for name in ROLES if name not in ("function_call", "tool_call"))


class ShareGPT(Messages):
    """The source `messages` under the name `sharegpt`, which users know. It reads all forms, not only ShareGPT's."""


class PromptResponse(Messages):
    """The source `messages` under the name `prompt_response`. It reads all forms, not only prompts with responses."""


class Ikala(Messages):
    """The source `messages` under the name `ikala`, a data set in the redpajama configuration.

    That data set is not public, so users provide their own conversations.
    """
