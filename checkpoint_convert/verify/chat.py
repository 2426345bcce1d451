"""Check that an exported folder tokenizes a chat as the pretokenizer does, and stops at the end of a turn.

outcome = check_chat(Path("HF_DIR"), Path("CKPT_DIR/iter_0000500"))      # None without a chat template
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from checkpoint_convert.huggingface.generation import generation_settings, stops_of
from checkpoint_convert.huggingface.tokenizer import chat_template_of, recorded_chat_format, special_ids
from checkpoint_convert.verify.logits import quiet_transformers
from megatron_train.checkpoint.folder import TOKENIZER_DIR
from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.roles import Role
from pretokenizer.files.limits import bounded
from pretokenizer.tokenizer.load import load_tokenizer_folder

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
    """Number of tokens compared, and the difference, if any."""

    num_tokens: int
    problem: str = ""

    def describe(self) -> str:
        if self.problem:
            return f"chat DIFFERS: {self.problem}"
        return f"chat template gives the pretokenizer's {self.num_tokens} ids, generation stops at the end of a turn"


def check_chat(hf_dir: Path, checkpoint: Path) -> ChatOutcome | None:
    """Compare a conversation's ids. Return None without a chat template or without a recorded chat format."""
    folder = checkpoint / TOKENIZER_DIR
    template = chat_template_of(hf_dir)
    if not folder.is_dir() or template is None:
        return None
    tokenizer = load_tokenizer_folder(folder)
    chat_format = recorded_chat_format(folder, tokenizer)
    if chat_format is None:
        return None
    ours = tokenizer.encode(chat_format.render(CONVERSATION).text)
    messages = [{"role": m.role.template_name, "content": m.text} for m in CONVERSATION.messages]
    with quiet_transformers() as transformers:
        loaded = transformers.AutoTokenizer.from_pretrained(hf_dir, local_files_only=True, trust_remote_code=False)
        with bounded(str(template[1])):
            theirs = loaded.apply_chat_template(messages, tokenize=True, return_dict=True)
    if list(theirs["input_ids"]) != ours:
        return ChatOutcome(len(ours), "apply_chat_template and the pretokenizer give different ids")
    end, stops = special_ids(tokenizer, chat_format).end_of_turn, stops_of(generation_settings(hf_dir, {}))
    if end not in stops:
        return ChatOutcome(len(ours), f"generation_config.json stops at {stops}, but a turn ends with {end}")
    return ChatOutcome(len(ours))
