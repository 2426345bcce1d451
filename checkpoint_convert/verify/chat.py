"""Check that an exported folder tokenizes a chat as the pretokenizer does, and stops at the end of a turn.

outcome = check_chat(Path("HF_DIR"), Path("CKPT_DIR/iter_0000500"))      # None without a chat template
"""

from __future__ import annotations

import filecmp
import tempfile
from dataclasses import dataclass
from pathlib import Path

from checkpoint_convert.huggingface.generation import generation_settings, stops_of
from checkpoint_convert.huggingface.source_files import SourceFiles, copy_source, templates_in
from checkpoint_convert.huggingface.tokenizer_files import TokenizerExport, checkpoint_tokenizer
from checkpoint_convert.output.report import named
from checkpoint_convert.verify.logits import quiet_transformers
from megatron_train.checkpoint.folder import TOKENIZER_DIR
from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import ChatFormat, ChatFormatError
from pretokenizer.chat.roles import Role
from pretokenizer.files.limits import bounded

CONVERSATION = Conversation(
    (
        Message(Role.SYSTEM, "Answer  briefly."),
        Message(Role.USER, "What does this print?\n\n    for i in range(2):\n        print(i, 'é', '🎉')"),
        Message(Role.ASSISTANT, "It prints two lines:\n\n0 é 🎉\n1 é 🎉"),
        Message(Role.USER, "Thanks!"),
        Message(Role.ASSISTANT, "You are welcome."),
    )
)


@dataclass(frozen=True)
class ChatOutcome:
    """The result of check_chat: what was compared, and the difference (`problem`), which is empty if there is none."""

    compared: str
    problem: str = ""

    def describe(self) -> str:
        """Return the result as one line of text."""
        return f"chat DIFFERS: {self.problem}" if self.problem else self.compared


def check_chat(hf_dir: Path, checkpoint: Path) -> ChatOutcome | None:
    """Compare the tokenizer files of an exported folder with the tokenizer of its checkpoint.

    An export that keeps the imported folder's tokenizer files is compared with them byte by byte. In any other export,
    a conversation must get the same ids from the pretokenizer, from apply_chat_template, and from the exported
    tokenizer on the rendered text. Return None, without comparing, for a checkpoint without a tokenizer or chat format,
    and for an export without a chat template.
    """
    folder = checkpoint / TOKENIZER_DIR
    if not folder.is_dir():
        return None
    export = checkpoint_tokenizer(folder)
    if export.is_source and export.source is not None:
        different = changed_files(export.source, hf_dir)
        return ChatOutcome("the tokenizer files are the source's", f"{named(different)} changed" if different else "")
    if export.chat_format is None or "default" not in templates_in(hf_dir):
        return None
    return compare_paths(hf_dir, export, export.chat_format)


def compare_paths(hf_dir: Path, export: TokenizerExport, chat_format: ChatFormat) -> ChatOutcome:
    """Compare the ids that a conversation gets from the pretokenizer with those that transformers gives it.

    transformers encodes it with apply_chat_template, and by tokenizing the rendered text. Generation must also stop at
    the end of a turn.
    """
    conversation = conversation_for(chat_format)
    ours = export.tokenizer.encode(chat_format.render(conversation).text)
    compared = f"chat template gives the pretokenizer's {len(ours)} ids, generation stops at the end of a turn"
    messages = messages_of(conversation)
    with quiet_transformers() as transformers:
        loaded = transformers.AutoTokenizer.from_pretrained(hf_dir, local_files_only=True, trust_remote_code=False)
        with bounded(str(hf_dir)):
            applied = loaded.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
            rendered = loaded.apply_chat_template(messages, tokenize=False)
    # A checkpoint that was not trained on shards keeps the BOS that its source's tokenizer adds.
    tokenized = loaded(rendered, add_special_tokens=export.adds_bos is not None)["input_ids"]
    if list(applied) != ours:
        return ChatOutcome(compared, "apply_chat_template and the pretokenizer give different ids")
    if list(tokenized) != ours:
        return ChatOutcome(compared, "tokenizing the rendered text and the pretokenizer give different ids")
    end, stops = export.special_ids().end_of_turn, stops_of(generation_settings(hf_dir, {}))
    if end not in stops:
        return ChatOutcome(compared, f"generation_config.json stops at {stops}, but a turn ends with {end}")
    return ChatOutcome(compared)


def conversation_for(chat_format: ChatFormat | None) -> Conversation:
    """Return the test conversation, without its system message if the chat format refuses one."""
    if chat_format is not None:
        try:
            chat_format.render(CONVERSATION)
        except ChatFormatError:
            return Conversation(CONVERSATION.messages[1:])
    return CONVERSATION


def messages_of(conversation: Conversation) -> list[dict[str, str]]:
    """Return a conversation as transformers takes it: a list of {"role": ..., "content": ...}."""
    return [{"role": message.role.template_name, "content": message.text} for message in conversation.messages]


def changed_files(source: SourceFiles, hf_dir: Path) -> list[str]:
    """Return the names of an export's tokenizer files that differ from the imported folder's.

    A chat template that the export adds to tokenizer_config.json does not count.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy_source(source, Path(folder))
        expected = [path.relative_to(folder) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        return [str(path) for path in expected if not _same(Path(folder) / path, hf_dir / path)]


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
