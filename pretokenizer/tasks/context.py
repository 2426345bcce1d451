"""The inputs that every step of a build shares: the plan, the tokenizer, the chat format and the run options."""

from dataclasses import dataclass
from pathlib import Path

from pretokenizer.chat.formats import CHAT_FORMATS, ChatFormat, get_chat_format
from pretokenizer.chat.jinja_format import TemplateFormat, TemplateOptions
from pretokenizer.chat.template_source import template_path, template_source
from pretokenizer.config.settings import PretokenizeConfig, RunOptions
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.tasks.plan import Plan, template_file, tokenizer_file
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer


@dataclass(frozen=True)
class BuildContext:
    """The inputs that every step of a build shares and none changes."""

    plan: Plan
    tokenizer: Tokenizer
    chat_format: ChatFormat
    options: RunOptions
    final: Path
    """Path of the output folder, which reports name. The folder is written elsewhere and renamed at the end."""

    @classmethod
    def load(cls, plan: Plan, options: RunOptions, final: Path) -> "BuildContext":
        """Return the context of a build, with the tokenizer and the chat format that the plan's configuration names.

        Raises ConfigError or TokenizerError when they cannot be loaded.
        """
        return cls(plan, *load_plan_tokenizer(plan.config), options, final)

    @property
    def config(self) -> PretokenizeConfig:
        """The configuration of the build, from its plan."""
        return self.plan.config


def load_plan_tokenizer(config: PretokenizeConfig) -> tuple[Tokenizer, ChatFormat]:
    """Return the tokenizer and the chat format that a configuration names.

    When the configuration names no special tokens, those of the chat format are added to the vocabulary. Raises
    ConfigError when the vocabulary then still lacks a token that the chat format needs.
    """
    named = CHAT_FORMATS.get(config.chat_format)
    path = template_file(config)
    template = template_source(path, template_path(config.chat_format)[1]) if path else None
    names = config.vocab_extra_ids_list
    extra = tuple(name for name in (names or "").strip('"').split(",") if name)
    if names is None and named:
        extra = named.special_tokens
    elif names is None and template:  # a template has no list of tokens, but it often spells those of chatml
        extra = tuple(token for token in CHAT_FORMATS["chatml"].special_tokens if token in template)
    tokenizer = load_tokenizer(tokenizer_file(config), extra, config.new_tokens)
    chat_format: ChatFormat
    if template is not None:
        options = TemplateOptions(config.template_loss, config.history, config.template_date)
        chat_format = TemplateFormat(template, str(path), tokenizer, options)
    else:
        chat_format = get_chat_format(config.chat_format).with_options(config.template_loss, config.history)
    needed = dict.fromkeys((*chat_format.special_tokens, chat_format.end_of_turn))
    missing = [token for token in needed if tokenizer.token_to_id(token) is None]
    if missing:
        raise ConfigError(
            f"chat_format {chat_format.name} needs {', '.join(missing)}, which {tokenizer.path} lacks;"
            " add them to vocab_extra_ids_list"
        )
    return tokenizer, chat_format
