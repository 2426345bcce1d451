"""Source oasst_export: Open-Assistant's message trees. Every path from the root to a leaf is a conversation.

A record is a tree (Open-Assistant's exports) or one message, in depth-first order (`OpenAssistant/oasst1` on the hub).
A message whose `parent_id` is null starts a tree. A tree is used if it is ready for export, its root passed review and
its root has one of the wanted languages. Train and val are drawn from trees, not from conversations.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.roles import Role
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import FileLayout, HubFiles
from pretokenizer.sources.source import WRONG_FORM, BadRecord, Converted, InputRecord, Source, bad_record

_ROLES = {"prompter": Role.USER, "assistant": Role.ASSISTANT}
_TREE_KEYS = ("message_tree_id", "tree_state", "prompt")
_MESSAGE_KEYS = ("message_id", "parent_id", "text", "role", "lang", "rank", "review_result", "deleted", "synthetic")
_REVISIONS = {
    "OpenAssistant/oasst1": "fdf72ae0827c1cda404aff25b6603abec9e3399b",
    "OpenAssistant/oasst2": "179dd21fc55192153d94adb0e0ce8f69e222bf75",
}


@dataclass(frozen=True)
class OasstOptions:
    """Options that a configuration section may set for the data set oasst_export."""

    input_file_path: str | None = None
    hf_dataset_name: str = "OpenAssistant/oasst1"
    """Repository on the hub to download from if no local file is found."""
    lang: str = "en"
    """Languages to keep, separated by commas. The language of a tree is that of its root."""
    top_k: int | None = None
    """Use only replies of the assistant with rank 0 (the best) to top_k - 1. Default: all replies."""
    manual_seed: int = 287631038922
    """Seed of the split into train and val."""


class OasstExport(Source):
    """Source oasst_export: a conversation for each path from the root of a message tree to a leaf.

    A record is a tree, in which `replies` holds the replies to a message, or a single message of a tree.
    """

    class_name = "ListDataset"
    split = "torch"
    stems = ("train", "validation")
    Options = OasstOptions
    used_keys = frozenset((*_TREE_KEYS, *_MESSAGE_KEYS))

    @property
    def layout(self) -> FileLayout:
        """How to choose the files that the source reads. The option `hf_dataset_name` names the hub repository."""
        name = self.options.hf_dataset_name
        return replace(super().layout, hub=HubFiles(name, _REVISIONS.get(name, "main"), ("data/*.parquet",)))

    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        """Convert one tree after another to conversations.

        A tree made of single messages has the position of its root.
        """
        for item, tree in _trees(records):
            if isinstance(tree, BadRecord):
                yield item, tree
                continue
            try:
                yield item, self.convert_tree(tree)
            except WRONG_FORM as error:
                yield item, bad_record(tree, error)

    def convert_tree(self, tree: Record) -> Converted:
        """Return the conversations of a tree, or the reason to leave the tree out."""
        root = tree.get("prompt")
        if not root:
            return "no prompt"
        if tree.get("tree_state") != "ready_for_export":
            return "tree not ready for export"
        if not root.get("review_result"):
            return "prompt failed review"
        if root.get("lang") not in self.languages:
            return "other language"
        return list(self.threads(root))

    @property
    def languages(self) -> frozenset[str]:
        """The languages to keep, from the option `lang`."""
        return frozenset(lang.strip() for lang in self.options.lang.split(","))

    def threads(self, root: Record) -> Iterator[Conversation]:
        """Yield the conversations of a tree, one for each wanted path from the root to a leaf, depth first.

        A prompt at the end of a path, which has no answer, is left out of the conversation. Raises ValueError if the
        roles on a path do not alternate.
        """
        stack: list[tuple[tuple[Record, ...], bool]] = [((root,), True)]
        while stack:
            path, is_first_child = stack.pop()
            node = path[-1]
            replies = node.get("replies") or []
            if len(path) > 1 and not replies and self._is_wanted(path, is_first_child):
                yield _conversation(path if node["role"] == "assistant" else path[:-1])
            for reply in reversed(replies):
                stack.append(((*path, reply), reply is replies[0] or reply == replies[0]))

    def _is_wanted(self, path: tuple[Record, ...], is_first_child: bool) -> bool:
        """Return whether a path from the root to a leaf becomes a conversation.

        A path is not used if it has a deleted or synthetic message, or a reply of the assistant whose rank is not among
        the first `top_k`. A path that ends with an unanswered prompt is used only if that prompt is the first reply to
        its parent. Raises ValueError if the roles of the path do not alternate.
        """
        if path[-1]["role"] != "assistant" and not is_first_child:
            return False
        if any(message.get("deleted") or message.get("synthetic") for message in path):
            return False
        if self.options.top_k is not None and not all(self._has_rank(parent, m) for parent, m in pairwise(path)):
            return False
        if any(m["role"] != ("prompter", "assistant")[i % 2] for i, m in enumerate(path)):
            raise ValueError("roles do not alternate")  # Open-Assistant raises an error here, too
        return True

    def _has_rank(self, parent: Record, message: Record) -> bool:
        """Return whether the option `top_k` allows a message: a prompt, or a reply whose rank is below `top_k`.

        A reply without a rank is allowed if it is the only reply to its parent.
        """
        if message["role"] != "assistant":
            return True
        rank = message.get("rank")
        return len(parent["replies"]) == 1 if rank is None else bool(rank < self.options.top_k)


def _conversation(path: tuple[Record, ...]) -> Conversation:
    messages = tuple(Message(_ROLES[message["role"]], message["text"]) for message in path)
    return Conversation(messages, path[0].get("lang"))


def _trees(records: Iterable[InputRecord]) -> Iterator[tuple[InputRecord, Record | BadRecord]]:
    """Yield (record, tree) for each tree. The record gives the tree its position.

    A record is a whole tree, or a single message. A tree assembled from single messages has the position of its root. A
    message without its parent, and any other record, gives a BadRecord instead of a tree.
    """
    builder: tuple[InputRecord, Record] | None = None
    messages: dict[str, Record] = {}
    for item in records:
        record = item.record
        if "prompt" in record or ("message_tree_id" in record and "message_id" not in record):
            yield item, record
        elif "message_id" in record:
            message = {**record, "replies": []}
            parent_id = record.get("parent_id")
            if not isinstance(record["message_id"], str) or not isinstance(parent_id, str | None):
                yield item, BadRecord("message_id or parent_id is not text")
            elif parent_id is None:
                if builder:
                    yield builder
                builder = (item, {"prompt": message, "tree_state": record.get("tree_state")})
                messages = {record["message_id"]: message}
            elif parent_id in messages:
                messages[parent_id]["replies"].append(message)
                messages[record["message_id"]] = message
            else:
                yield item, BadRecord("its parent is not among the earlier messages", f"{parent_id!r:.80}")
        else:
            keys = f"its keys: {', '.join(map(str, record))}"[:200]
            found = "a thread; export trees instead" if "thread_id" in record else keys
            yield item, BadRecord("neither a message tree nor a message", found)
    if builder:
        yield builder
