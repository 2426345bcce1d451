"""Find the chat format of an imported folder from its chat template, record it in the checkpoint, and read it.

chat_format = chat_format_of(tokenizer, Path("HF_DIR"))
save_with_template(tokenizer, chat_format, Path("CKPT_DIR/release/tokenizer"))
chat_format = recorded_chat_format(Path("CKPT_DIR/iter_0000500/tokenizer"), tokenizer)
"""

from __future__ import annotations

from pathlib import Path

from checkpoint_convert.huggingface.source_files import TOKENIZER_CONFIG, templates_in
from checkpoint_convert.output.report import warn
from checkpoint_convert.tensors.tensor import ConvertError
from pretokenizer.chat.formats import CHAT_FORMATS, TEMPLATE_NAME, ChatFormat, ChatFormatError
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import read_tokenizer_spec


def chat_template_of(folder: Path) -> tuple[str, Path] | None:
    """Return a folder's default chat template and the file that holds it, or None without a template.

    Raises ConvertError for a file that cannot be read.
    """
    template = templates_in(folder).get("default")
    if template is None:
        return None
    file = folder / TEMPLATE_NAME
    return template, file if file.is_file() else folder / TOKENIZER_CONFIG


def chat_format_of(tokenizer: Tokenizer, folder: Path) -> ChatFormat | None:
    """Return the chat format of an imported folder, or None when it has none or its template cannot be used.

    A chat template decides: it is that of a format of this project, or else becomes a TemplateFormat. A template that
    cannot render a prompt and a reply is left out with a warning. Without a template, the format is the one whose
    control tokens were added to the tokenizer.
    """
    try:
        template = chat_template_of(folder)
        if template is not None:
            text, path = template
            named = next((f for f in CHAT_FORMATS.values() if f.hf_chat_template == text), None)
            if named is not None:
                return named
            from pretokenizer.chat.jinja_format import TemplateFormat  # here, to save memory

            return TemplateFormat(text, str(path), tokenizer)
    except (ChatFormatError, ConvertError) as error:
        warn(f"the chat template is left out: {error}")
        return None
    added, known = set(tokenizer.extra_special_tokens), {*tokenizer.special_tokens, "<|endoftext|>"}
    formats = (f for f in CHAT_FORMATS.values() if known.issuperset(f.special_tokens) and added & {*f.special_tokens})
    return next(formats, None)


def save_with_template(tokenizer: Tokenizer, chat_format: ChatFormat | None, folder: Path) -> None:
    """Write a checkpoint's `tokenizer/` folder: the tokenizer, the name of the chat format, and its chat template."""
    tokenizer.save(folder, chat_format.name if chat_format else None)
    if chat_format is not None:
        (folder / TEMPLATE_NAME).write_text(chat_format.hf_chat_template, encoding="utf-8")


def recorded_chat_format(folder: Path, tokenizer: Tokenizer) -> ChatFormat | None:
    """Return the chat format recorded in a checkpoint's `tokenizer/` (`folder`), or None when it records none.

    A format that this project does not define is read from the chat template in `folder`. If that template cannot be
    used, return None with a warning.
    """
    name = read_tokenizer_spec(folder).get("chat_format")
    if name is None or name in CHAT_FORMATS:
        return CHAT_FORMATS.get(name or "")
    from pretokenizer.chat.jinja_format import read_template

    try:
        return read_template(folder / TEMPLATE_NAME, tokenizer)
    except ChatFormatError as error:
        warn(f"chat format {name!r} has no usable template, so no template is written: {error}")
        return None
