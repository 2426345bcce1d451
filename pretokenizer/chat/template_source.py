"""Read a chat template from a Jinja file, or from the `chat_template` of a `tokenizer_config.json`."""

from pathlib import Path

from pretokenizer.chat.formats import ChatFormatError
from pretokenizer.files.publish import read_json


def template_path(given: str) -> tuple[str, str | None]:
    """Split `FILE` or `FILE:NAME` into the file's path and the template's name, which is None without `:NAME`.

    >>> template_path("tokenizer_config.json:tool_use")
    ('tokenizer_config.json', 'tool_use')
    """
    if Path(given).is_file():
        return given, None
    path, colon, name = given.rpartition(":")
    return (path, name) if colon and path.endswith((".json", ".jinja")) else (given, None)


def template_source(path: Path, name: str | None = None) -> str:
    """Return the Jinja source in a file; `name` chooses one of several templates in a JSON file.

    Raises ChatFormatError naming the file if it cannot be read, holds no template, or lacks the named one.
    """
    try:
        if path.suffix != ".json":
            if name is not None:
                raise ChatFormatError(f"{path}: holds one template; give the path without :{name}")
            return path.read_text(encoding="utf-8")
        found = read_json(path)
    except ChatFormatError:
        raise
    except (OSError, ValueError) as error:
        raise ChatFormatError(f"{path}: cannot read: {error}") from None
    templates = _templates(found)
    if not templates:
        raise ChatFormatError(
            f"{path}: has no chat_template; give a Jinja file, or a tokenizer_config.json that has one"
        )
    chosen = "default" if name is None else name
    if chosen not in templates:
        listed = ", ".join(f"{path}:{known}" for known in templates)
        raise ChatFormatError(f"{path}: has no chat template {chosen!r}; give one of {listed}")
    return templates[chosen]


def _templates(config: object) -> dict[str, str]:
    """Return the chat templates in a parsed tokenizer_config.json by name. A single template is called `default`."""
    found = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, dict):
        return {str(key): value for key, value in found.items() if isinstance(value, str)}
    if isinstance(found, list):
        entries = [entry for entry in found if isinstance(entry, dict)]
        return {str(e["name"]): e["template"] for e in entries if isinstance(e.get("template"), str) and "name" in e}
    return {}
