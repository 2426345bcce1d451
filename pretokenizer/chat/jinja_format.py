"""Any Jinja chat template as a chat format: `--chat_format my_template.jinja`.

A template does not say which part of its text belongs to whom, so it is asked: the conversation is rendered message by
message, and what each message adds is its turn. That works only when a longer conversation begins with the text of the
shorter one; a template that rewrites what came before (dates, dropped thoughts, a moved system message) is refused.
Where a message's own text stands inside its turn is found by rendering a marker in its place.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pretokenizer.chat.conversation import Message
from pretokenizer.chat.formats import ChatFormat, ChatFormatError, Turn
from pretokenizer.chat.roles import Role
from pretokenizer.files.limits import BoundsError, bounded
from pretokenizer.tokenizer.base import Tokenizer

_MARKER = "\u2063marker\u2063"


class TemplateFormat(ChatFormat):
    """A template file, bound to a tokenizer for its bos and eos tokens."""

    name = "jinja"
    special_tokens = ()

    def __init__(self, source: str, path: str, tokenizer: Tokenizer) -> None:
        self.hf_chat_template = source
        self.path = path
        eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
        self._names = {
            "eos_token": tokenizer.id_to_token(eos) or "",
            "bos_token": "" if bos is None else tokenizer.id_to_token(bos) or "",
        }
        question, answer = Message(Role.USER, "?"), Message(Role.ASSISTANT, "!")
        with _bounded(path):
            self._template = _compile(source, path)
            asked = self._render((question,))
            self.generation_prompt = self._render((question,), add_generation_prompt=True).removeprefix(asked)
        self.end_of_turn = _first_special(self.turns((question, answer))[-1].suffix, tokenizer, path)

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """One turn a message; one that the template cannot render alone (a system message) joins the next.

        Raises ChatFormatError when the template rewrites what came before, or does not finish.
        """
        with _bounded(self.path):
            return self._turns(messages)

    def _turns(self, messages: Sequence[Message]) -> list[Turn]:
        turns, done, first = [], "", 0
        for count in range(1, len(messages) + 1):
            text = self._try_render(messages[:count])
            if text is None or (text == done and count < len(messages)):
                continue
            if not text.startswith(done):
                raise ChatFormatError(
                    f"{self.path}: message {count} changes the text of those before it; roles cannot be told"
                )
            turns.append(self._turn(messages[first:count], messages[:first], text[len(done) :], done))
            done, first = text, count
        if first < len(messages):
            self._render(messages)
            raise ChatFormatError(f"{self.path}: the template does not show the last message")
        return turns

    def _turn(self, own: Sequence[Message], before: Sequence[Message], text: str, done: str) -> Turn:
        """The turn of messages that came together, `text`; its role is that of the last one."""
        marked = [*before, *(message._replace(text=_MARKER) for message in own)]
        pieces = self._render(marked).removeprefix(done).split(_MARKER)
        prefix, suffix = pieces[0], pieces[-1]
        is_inside = len(pieces) == len(own) + 1 and len(text) >= len(prefix) + len(suffix)
        if not (is_inside and text.startswith(prefix) and text.endswith(suffix)):
            raise ChatFormatError(
                f"{self.path}: a message's text cannot be found again in what the template makes of it"
            )
        return Turn(prefix, text[len(prefix) : len(text) - len(suffix)], suffix, own[-1].stored_role)

    def _try_render(self, messages: Sequence[Message]) -> str | None:
        try:
            return self._render(messages)
        except ChatFormatError:
            return None

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        import jinja2

        shown = [{"role": message.role.template_name, "content": message.text} for message in messages]
        try:
            return str(
                self._template.render(messages=shown, add_generation_prompt=add_generation_prompt, **self._names)
            )
        except BoundsError:
            raise
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise ChatFormatError(f"{self.path}: the template fails: {error}") from None


@contextlib.contextmanager
def _bounded(path: str) -> Iterator[None]:
    try:
        with bounded(path):
            yield
    except BoundsError as error:
        raise ChatFormatError(str(error)) from None


def read_template(path: Path, tokenizer: Tokenizer) -> TemplateFormat:
    """The format of a template file. Raises ChatFormatError."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ChatFormatError(f"{path}: cannot read: {error}") from None
    return TemplateFormat(source, str(path), tokenizer)


def _first_special(suffix: str, tokenizer: Tokenizer, path: str) -> str:
    """The control token that ends a reply."""
    eos = tokenizer.id_to_token(tokenizer.eos_token_id)
    known = [*tokenizer.special_tokens, *([eos] if eos else [])]
    found = [(suffix.find(token), token) for token in known if token in suffix]
    if not found:
        raise ChatFormatError(
            f"{path}: no control token ends a reply (it ends with {suffix!r}); name the template's tokens in"
            " vocab_extra_ids_list"
        )
    return min(found)[1]


@lru_cache
def _compile(source: str, path: str) -> Any:
    """The template in a sandbox, with what transformers gives to chat templates."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}...{% endgeneration %}`: its text, unchanged."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        """No powers: one of them may take hours, in which no signal is heard."""

        intercepted_binops = frozenset({"**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            raise jinja2.sandbox.SecurityError("powers are not allowed in a chat template")

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ChatFormatError(f"{path}:{error.lineno}: not a Jinja template: {error.message}") from None
