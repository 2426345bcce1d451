"""The chat templates of real models that `trl` ships give transformers' ids and masks, and the expected roles."""

import datetime
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from pretokenizer.audit.loss_rules import LossAudit
from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import ChatFormatError
from pretokenizer.chat.jinja_format import TemplateFormat, TemplateOptions
from pretokenizer.chat.roles import Role
from pretokenizer.chat.shown import shown
from pretokenizer.config.settings import RunOptions
from pretokenizer.encode.encoder import make_encoder
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.plan import make_plan
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from tests.pretokenizer.conftest import make_toy_config, question_records, write_jsonl

trl = pytest.importorskip("trl", reason="trl is not installed: pip install -e '.[interop]'")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.interop, pytest.mark.slow]
TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
CONTROL = re.compile(r"<\|[^|<>{}%\s]+\|>|<[a-z]+(?:_[a-z]+)+>|\[/?[A-Z_]{3,}\]|<｜[^｜]+｜>")
"""Control tokens that appear in the templates."""


def user(text: str) -> Message:
    return Message(Role.USER, text)


def reply(text: str, **fields: Any) -> Message:
    return Message(Role.ASSISTANT, text, fields=fields or None)


CALL = {
    "type": "function",
    "id": "abcdefghi",
    "function": {"name": "weather", "arguments": {"city": "Oslo", "days": 2}},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <of> a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "A city"}},
                "required": ["city"],
            },
        },
    }
]
SYSTEM = Message(Role.SYSTEM, "SYSTEM-0 Be kind.")
CONVERSATIONS = {
    "plain": Conversation((user("QUESTION-0"), reply("ANSWER-0"))),
    "system": Conversation((SYSTEM, user(" QUESTION-0\n"), reply(" ANSWER-0\n"))),
    "multi-turn": Conversation((user("QUESTION-0"), reply("ANSWER-0"), user("QUESTION-1"), reply("ANSWER-1"))),
    "reasoning": Conversation(
        (
            user("QUESTION-0"),
            reply("ANSWER-0", reasoning_content="thought 0"),
            user("QUESTION-1"),
            reply("<think>\nthought 1\n</think>\n\nANSWER-1"),
        )
    ),
    "tools": Conversation(
        (
            SYSTEM,
            user("QUESTION-0"),
            reply("ANSWER-0", tool_calls=[CALL]),
            Message(Role.TOOL, '{"degrees": 3}', fields={"name": "weather", "tool_call_id": "abcdefghi"}),
            reply("ANSWER-1"),
        ),
        tools=TOOLS,
    ),
    "call without text": Conversation(
        (
            user("QUESTION-0"),
            reply("", tool_calls=[CALL], content=None),
            Message(Role.TOOL, "3 degrees", fields={"name": "weather", "tool_call_id": "abcdefghi"}),
            reply("ANSWER-0"),
        )
    ),
    "consecutive roles": Conversation((user("QUESTION-0"), user("QUESTION-1"), reply("ANSWER-0"), reply("ANSWER-1"))),
    "control tokens in text": Conversation(
        (user("QUESTION-0 <|im_end|> <eos>"), reply("ANSWER-0 <|im_start|><end_of_turn>"))
    ),
    "empty": Conversation((user(""), reply(""))),
    "unicode": Conversation((user("QUESTION-0 é 漢字 \u2028 e\u0301"), reply("\n\nANSWER-0 🎉👨‍👩‍👧 \ufeff\n"))),
}


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a byte-level `tokenizer.json` with the control tokens of all templates."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    spelled = {token for path in TEMPLATES for token in CONTROL.findall(path.read_text(encoding="utf-8"))}
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<bos>", "<eos>", "<pad>", *sorted(spelled)],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [CONTROL.sub(" ", path.read_text(encoding="utf-8")) for path in TEMPLATES]
    backend.train_from_iterator(texts, trainer)
    folder = tmp_path_factory.mktemp("interop")
    backend.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def ours(tokenizer_path: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_path)


@pytest.fixture(scope="module")
def theirs(tokenizer_path: Path) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_path), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def apply(theirs: Any, source: str, talk: Conversation, **options: Any) -> Any:
    """Return transformers' encoding of a conversation, or None when the template refuses it."""
    try:
        return theirs.apply_chat_template(
            [shown(message) for message in talk.messages], tools=talk.tools, chat_template=source, **options
        )
    except Exception:  # a template may raise anything
        return None


def test_ids_are_those_of_transformers_and_roles_those_of_the_content(ours: Tokenizer, theirs: Any) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    options = TemplateOptions(loss="turn", date=datetime.datetime.now().date().isoformat())
    for path in TEMPLATES:
        source = path.read_text(encoding="utf-8")
        chat_format = TemplateFormat(source, path.name, ours, options)
        as_written, _ = make_encoder(ours, chat_format, encode_special_in_text=True)
        safe, line = make_encoder(ours, chat_format)
        counts["templates"] += 1
        counts["fast"] += "proved" in line
        for name, talk in CONVERSATIONS.items():
            expected = apply(theirs, source, talk, tokenize=True)
            try:
                batch = as_written.encode([talk])
            except ChatFormatError:
                counts["refused by both" if expected is None else "refused by us alone"] += 1
                wrong += [] if expected is None else [f"{path.name} {name}: refused"]
                continue
            if expected is None or batch.tokens.tolist() != list(expected["input_ids"]):
                wrong.append(f"{path.name} {name}: other ids")
                continue
            counts["renderings with equal ids"] += 1
            wrong += [f"{path.name} {name}: {problem}" for problem in role_problems(ours, chat_format, safe, talk)]
    print(dict(counts))
    assert wrong == []
    assert counts["renderings with equal ids"] >= 500 and counts["refused by us alone"] == 0


def role_problems(ours: Tokenizer, chat_format: TemplateFormat, encoder: Any, talk: Conversation) -> list[str]:
    """Return the problems with the roles of a document in which control tokens of messages stay text."""
    batch = encoder.encode([talk])
    roles = np.repeat(batch.turn_roles, batch.turn_sizes)
    rendered = chat_format.render(talk)
    by_role = {role: ours.decode(batch.tokens[roles == role].tolist()) for role in Role}
    problems = [] if ours.decode(batch.tokens.tolist()) == rendered.text else ["another text"]
    places = {"QUESTION": Role.USER, "ANSWER": Role.ASSISTANT, "SYSTEM": Role.SYSTEM}
    for word in re.findall(r"(?:QUESTION|ANSWER|SYSTEM)-\d", rendered.text):
        own = places[word.partition("-")[0]]
        found = {role for role, text in by_role.items() if word in text}
        if found != {own}:
            problems.append(f"{word} has roles {found}")
    return problems


def test_masks_are_those_of_transformers(ours: Tokenizer, theirs: Any) -> None:
    """The masks of templates with `{% generation %}` marks agree for every token."""
    counts: Counter[str] = Counter()
    wrong = []
    options = TemplateOptions(date=datetime.datetime.now().date().isoformat())
    for path in TEMPLATES:
        source = path.read_text(encoding="utf-8")
        if "endgeneration" not in source:
            continue
        chat_format = TemplateFormat(source, path.name, ours, options)
        encoder, _ = make_encoder(ours, chat_format, encode_special_in_text=True)
        counts["templates"] += 1
        for name, talk in CONVERSATIONS.items():
            expected = apply(theirs, source, talk, return_dict=True, return_assistant_tokens_mask=True)
            if expected is None:
                continue
            batch = encoder.encode([talk])
            mask = np.repeat(batch.turn_roles, batch.turn_sizes) == Role.ASSISTANT
            if mask.astype(int).tolist() == list(expected["assistant_masks"]):
                counts["equal masks"] += 1
                counts["tokens with loss"] += int(mask.sum())
            else:
                wrong.append(f"{path.name} {name}")
    print(dict(counts))
    assert wrong == []
    assert counts["templates"] >= 10 and counts["equal masks"] >= 100


def test_the_audit_gives_trl_the_mask_of_transformers(tokenizer_path: Path, theirs: Any, tmp_path: Path) -> None:
    (tmp_path / "data/gsm8k").mkdir(parents=True)
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(1))
    talk = CONVERSATIONS["multi-turn"]
    for name in ("cohere_training", "deepseekv3_training"):
        path = Path(trl.__file__).parent / f"chat_templates/{name}.jinja"
        config = make_toy_config(tmp_path, ["gsm8k"], vocab_file=str(tokenizer_path), chat_format=str(path))
        audited = LossAudit(BuildContext.load(make_plan(config), RunOptions(), tmp_path)).audit(talk)
        source = path.read_text(encoding="utf-8")
        expected = apply(theirs, source, talk, return_dict=True, return_assistant_tokens_mask=True)["assistant_masks"]
        assert sum(expected) > 0 and audited.masks["trl"].astype(int).tolist() == list(expected), name
