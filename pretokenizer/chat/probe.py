"""Find a chat template's generation prompt and end-of-turn token by rendering a question and an answer."""

from typing import Any, NamedTuple

from pretokenizer.chat.rendered import TemplateLoss
from pretokenizer.template.fragment import text_of
from pretokenizer.template.rendering import CompiledTemplate, TemplateFailureError, TemplateLimitError
from pretokenizer.tokenizer.base import Tokenizer

_QUESTION, _ANSWER = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
_TALKS: tuple[list[dict[str, Any]], ...] = (
    [_QUESTION, _ANSWER],
    [{"role": "system", "content": "."}, _QUESTION, _ANSWER],
    [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in (_QUESTION, _ANSWER)],
)
"""Conversations to try in turn. Some templates need a system message, and some need a list of parts as content."""


class Probe(NamedTuple):
    """What a template's rendering of a question and an answer reveals about it."""

    generation_prompt: str
    """Text that the template puts at the end of a prompt to start a reply."""
    end_of_turn: str
    """The control token that ends a reply; the tokenizer's EOS token if the template writes none there."""
    warnings: tuple[str, ...]


def probe(template: CompiledTemplate, tokenizer: Tokenizer, loss: TemplateLoss) -> Probe:
    """Return a template's generation prompt, end-of-turn token and warnings. `loss` says which text gets loss.

    Raises TemplateFailureError if the template cannot render a question and an answer.
    """
    failure = None
    for talk in _TALKS:
        try:
            found = template.fragments(talk)
            prompt = template.text(talk[:-1], add_generation_prompt=True)
            break
        except TemplateLimitError:
            raise
        except TemplateFailureError as error:
            failure = failure or error
    else:
        assert failure is not None
        raise failure
    number = len(talk) - 1
    own = [i for i, fragment in enumerate(found) if fragment.message == number]
    data = [i for i in own if found[i].is_data]
    if not data:
        warning = f"{template.path}: the template does not show the assistant's messages, so nothing gets loss"
        return Probe("", tokenizer.id_to_token(tokenizer.eos_token_id) or "", (warning,))
    before, tail = text_of(found[: own[0]]), text_of(found[data[-1] + 1 :])
    generation_prompt = prompt.removeprefix(before) if prompt.startswith(before) else ""
    header = text_of(found[own[0] : data[0]])
    end, warnings = _end_of_turn(tail, tokenizer, template.path)
    if "endgeneration" in template.source and not any(fragment.is_marked for fragment in found):
        warnings = (*warnings, f"{template.path}: its {{% generation %}} marks hold no text, so nothing gets loss")
    if not generation_prompt and header.strip():
        has_loss = loss != "marks" or all(found[i].is_marked for i in own if i < data[0])
        learned = "which gets loss" if has_loss else "which it does not learn, because the marks leave it out"
        warnings = (
            *warnings,
            f"{template.path}: add_generation_prompt adds nothing, so a prompt ends before {header!r}, which the model"
            f" has to write and {learned}; add it to the template, inside {{% if add_generation_prompt %}}",
        )
    return Probe(generation_prompt, end, warnings)


def tokens_of(tokenizer: Tokenizer) -> dict[str, str]:
    """Return {variable: token} of the template variables `bos_token`, `eos_token` and `pad_token`.

    A variable is absent if the tokenizer has no such token.
    """
    ids = {
        "bos_token": tokenizer.bos_token_id,
        "eos_token": tokenizer.eos_token_id,
        "pad_token": tokenizer.pad_token_id,
    }
    names = {key: None if token_id is None else tokenizer.id_to_token(token_id) for key, token_id in ids.items()}
    return {key: name for key, name in names.items() if name is not None}


def _end_of_turn(tail: str, tokenizer: Tokenizer, path: str) -> tuple[str, tuple[str, ...]]:
    """Return the first control token in `tail`, the text after a reply, and no warning.

    Without a control token there, return the tokenizer's EOS token and a warning.
    """
    eos = tokenizer.id_to_token(tokenizer.eos_token_id) or ""
    symbols = tokenizer.typed_pattern.findall(tail)  # user-defined pieces of SentencePiece, such as <end_of_turn>
    known = {*tokenizer.special_tokens, *tokenizer.control_tokens, *symbols, eos}
    found = [(tail.find(token), -len(token), token) for token in known if token and token in tail]
    if found:
        return min(found)[2], ()
    ends = f"ends with {tail!r}" if tail else "ends with its own text"
    return eos, (
        f"{path}: no control token ends a reply (it {ends}), so a model trained on it does not learn to stop;"
        f" add one to the template, for example {{{{ eos_token }}}}",
    )
