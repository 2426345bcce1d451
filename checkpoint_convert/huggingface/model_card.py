"""README.md of an exported folder: architecture, data with statistics, training arguments, prompt format, and use.

The card states what the checkpoint records. It leaves out everything else instead of guessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from checkpoint_convert.huggingface.lineage import RECEIPT, ancestors, is_hub_name, lineage, training_settings
from checkpoint_convert.output.loss_curves import LOSS_PLOT, read_metrics
from megatron_train.checkpoint.folder import RELEASE
from megatron_train.config.changed import changed_settings
from megatron_train.config.model_config import ModelConfig
from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import ChatFormat
from pretokenizer.chat.roles import Role
from pretokenizer.tokenizer.base import Tokenizer

EXAMPLE = (Message(Role.SYSTEM, "{system message}"), Message(Role.USER, "{prompt}"), Message(Role.ASSISTANT, "{reply}"))
USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
messages = [{{"role": "user", "content": "What is the capital of France?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
reply = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""


@dataclass(frozen=True)
class CardFacts:
    """The facts of a model card that no checkpoint records, so that the user must state them."""

    name: str
    """Argument of from_pretrained: a folder, or ORG/NAME on the hub."""
    license: str | None = None
    """Identifier of the licence on the hub, such as `apache-2.0`."""
    language: tuple[str, ...] = ()
    """Codes of the languages, such as `en`."""
    datasets: tuple[str, ...] = ()
    """Names of the data sets on the hub."""
    has_loss_plot: bool = False
    """Whether loss.png is in the folder."""


def model_card(
    facts: CardFacts,
    model: ModelConfig,
    checkpoint: Path,
    tokenizer: Tokenizer | None,
    chat_format: ChatFormat | None,
) -> str:
    """Return the model card of a checkpoint's export (README.md) as Markdown.

    Without a tokenizer or a chat format, the card has no section on prompts. Without training runs, it has none on data
    and training.
    """
    names = lineage(checkpoint)
    runs = [folder for folder in reversed(ancestors(checkpoint)) if training_settings(folder)]
    parts = [
        _front_matter(facts, names, bool(runs)),
        f"# {facts.name.rpartition('/')[2]}\n",
        _model_table(model, checkpoint, names),
    ]
    if chat_format is not None and tokenizer is not None:
        use = USE.format(name=facts.name)
        parts += ["## Prompt format\n", _prompt_format(chat_format, tokenizer), "## Use\n", use]
    if runs:
        parts += ["## Data\n", _data(runs), "## Training\n"]
        parts += [f"![Loss of each training run]({LOSS_PLOT})\n"] if facts.has_loss_plot else []
        parts += [_training(run) for run in runs]
        parts += [f"`{RECEIPT}` binds this folder to its checkpoints, shards and input files by SHA-256.\n"]
    return "\n".join(part for part in parts if part)


def _front_matter(facts: CardFacts, names: list[str], is_trained: bool) -> str:
    """Return the card's YAML header, from which the hub takes licence, languages, base model, task and library.

    `names` is the checkpoint's lineage; its last name becomes the base model if it is a name on the hub.
    """
    values = {
        "license": facts.license,
        "language": list(facts.language),
        "datasets": list(facts.datasets),
        "base_model": names[-1] if names and is_hub_name(names[-1]) else None,
        "tags": ["sft"] if is_trained else [],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
    }
    known = {key: value for key, value in values.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False)}---\n"


def _model_table(model: ModelConfig, checkpoint: Path, names: list[str]) -> str:
    rows = {
        "architecture": model.family,
        "parameters": _rounded_count(model.num_parameters()),
        "layers x hidden size": f"{model.num_layers} x {model.hidden_size:,}",
        "attention heads (key/value)": f"{model.num_attention_heads} ({model.query_groups})",
        "context length": f"{model.max_position_embeddings:,} tokens",
        **({} if checkpoint.name == RELEASE and names else {"converted from": f"`{checkpoint.name}`"}),
        **({"base model": ", from ".join(f"`{name}`" for name in names)} if names else {}),
    }
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())


def _rounded_count(count: int) -> str:
    """Return a number as text: with three significant digits and a unit from a million on, else all digits.

    >>> _rounded_count(6_738_415_616)
    '6.74 billion'
    """
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:,}"


def _prompt_format(chat_format: ChatFormat, tokenizer: Tokenizer) -> str:
    text = chat_format.render(Conversation(EXAMPLE)).text
    ids = {token: tokenizer.token_to_id(token) for token in chat_format.special_tokens}
    tokens = ", ".join(f"`{token}` = {token_id}" for token, token_id in ids.items())
    stop = f"A reply ends at `{chat_format.end_of_turn}`. Special tokens: {tokens}."
    return f"{chat_format.name}:\n\n```\n{text.rstrip()}\n```\n\n{stop}\n"


def _data(runs: Sequence[Path]) -> str:
    """Return Markdown that lists the training shards of `runs`, each with its statistics report if that still exists.

    `runs` has one checkpoint folder of each run.
    """
    settings = [training_settings(run) for run in runs]
    words = [word for own in settings for key in ("data_path", "train_data_path") for word in _words(own.get(key))]
    parts = []
    for prefix in dict.fromkeys(word for word in words if not _is_number(word)):
        stats = Path(f"{prefix}_stats.txt")
        parts.append(
            f"`{Path(prefix).name}`"
            + (f"\n\n```\n{stats.read_text(encoding='utf-8').strip()}\n```" if stats.is_file() else "")
        )
    return "\n\n".join(parts) + "\n" if parts else ""


def _training(checkpoint: Path) -> str:
    """Return the card's section on the run that saved `checkpoint`: its results and its non-default settings."""
    settings = {name: _rounded(value) for name, value in changed_settings(training_settings(checkpoint)).items()}
    listed = yaml.safe_dump(settings, sort_keys=False)
    parts = [
        f"### {checkpoint.resolve().parent.name}\n",
        _results(read_metrics(checkpoint.parent)),
        "Settings that differ from the trainer's defaults:\n",
        f"```yaml\n{listed}```\n",
    ]
    return "\n".join(part for part in parts if part)


def _rounded(value: Any) -> Any:
    """Return the value of a setting, rounded to six significant digits if it is a float.

    >>> _rounded(2.9999999999999997e-05)
    3e-05
    """
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _results(records: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of a run's iterations, tokens, losses and last evaluations.

    Return an empty string when there are no losses.
    """
    steps = [record for record in records if record.get("lm_loss") is not None]
    if not steps:
        return ""
    rows = {
        "iterations": f"{steps[-1]['iteration']:,}",
        "tokens": f"{sum(step.get('num_tokens') or 0 for step in steps):,}",
        "loss": f"{steps[0]['lm_loss']:.3f} at first, {steps[-1]['lm_loss']:.3f} at last",
    }
    for kind, label in (("eval", "evaluation"), ("test", "test")):
        for name, result in next((record[kind] for record in reversed(records) if kind in record), {}).items():
            if result["loss"] is not None:  # null is a loss that was not finite
                rows[f"{label} on {name}"] = f"loss {result['loss']:.3f}, token accuracy {result['token_accuracy']:.1%}"
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())


def _words(value: Any) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else [str(value)] if value else []


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
