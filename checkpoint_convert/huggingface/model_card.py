"""README.md of an exported folder: architecture, data with statistics, training arguments, prompt format, and use.

The card states what the checkpoint records. It leaves out everything else instead of guessing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from checkpoint_convert.huggingface.lineage import is_hub_name, lineage, training_settings
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


def model_card(
    name: str, model: ModelConfig, checkpoint: Path, tokenizer: Tokenizer | None, chat_format: ChatFormat | None
) -> str:
    """Return the card's Markdown. `name` is the argument of from_pretrained: a folder or ORG/NAME on the hub."""
    training, ancestors = training_settings(checkpoint), lineage(checkpoint)
    parts = [
        _front_matter(ancestors),
        f"# {name.rpartition('/')[2]}\n",
        _model_table(model, checkpoint, ancestors),
    ]
    if chat_format is not None and tokenizer is not None:
        parts += ["## Prompt format\n", _prompt_format(chat_format, tokenizer), "## Use\n", USE.format(name=name)]
    if training:
        parts += [
            "## Data\n",
            _data(training),
            "## Training\n",
            _results(checkpoint),
            "Settings that differ from the trainer's defaults:\n",
            f"```yaml\n{yaml.safe_dump(changed_settings(training), sort_keys=False)}```\n",
        ]
    return "\n".join(part for part in parts if part)


def _front_matter(ancestors: list[str]) -> str:
    """Return the card's YAML header, which tells the hub the base model, the task and the library."""
    base = [f"base_model: {ancestors[-1]}"] if ancestors and is_hub_name(ancestors[-1]) else []
    return "\n".join(["---", *base, "pipeline_tag: text-generation", "library_name: transformers", "---\n"])


def _model_table(model: ModelConfig, checkpoint: Path, ancestors: list[str]) -> str:
    rows = {
        "architecture": model.family,
        "parameters": f"{model.num_parameters():,}",
        "layers x hidden size": f"{model.num_layers} x {model.hidden_size:,}",
        "attention heads (key/value)": f"{model.num_attention_heads} ({model.query_groups})",
        "context length": f"{model.max_position_embeddings:,} tokens",
        **({} if checkpoint.name == RELEASE and ancestors else {"converted from": f"`{checkpoint.name}`"}),
        **({"base model": ", from ".join(f"`{name}`" for name in ancestors)} if ancestors else {}),
    }
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())


def _prompt_format(chat_format: ChatFormat, tokenizer: Tokenizer) -> str:
    text = chat_format.render(Conversation(EXAMPLE)).text
    ids = {token: tokenizer.token_to_id(token) for token in chat_format.special_tokens}
    tokens = ", ".join(f"`{token}` = {token_id}" for token, token_id in ids.items())
    stop = f"A reply ends at `{chat_format.end_of_turn}`. Special tokens: {tokens}."
    return f"{chat_format.name}:\n\n```\n{text.rstrip()}\n```\n\n{stop}\n"


def _data(training: dict[str, Any]) -> str:
    """Return Markdown that lists the shards of the training, each with its statistics report if that still exists."""
    words = [word for key in ("data_path", "train_data_path") for word in _words(training.get(key))]
    parts = []
    for prefix in dict.fromkeys(word for word in words if not _is_number(word)):
        stats = Path(f"{prefix}_stats.txt")
        parts.append(
            f"`{Path(prefix).name}`"
            + (f"\n\n```\n{stats.read_text(encoding='utf-8').strip()}\n```" if stats.is_file() else "")
        )
    return "\n\n".join(parts) + "\n" if parts else ""


def _results(checkpoint: Path) -> str:
    """Return a Markdown table of a run's iterations, tokens, losses and last evaluation.

    Return an empty string when metrics.jsonl no longer exists or has no losses.
    """
    path = checkpoint.parent / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    steps = [record for record in records if record.get("lm_loss") is not None]
    if not steps:
        return ""
    rows = {
        "iterations": f"{steps[-1]['iteration']:,}",
        "tokens": f"{sum(step.get('num_tokens') or 0 for step in steps):,}",
        "loss": f"{steps[0]['lm_loss']:.3f} at first, {steps[-1]['lm_loss']:.3f} at last",
    }
    for name, result in next((record["eval"] for record in reversed(records) if "eval" in record), {}).items():
        if result["loss"] is not None:  # null is a loss that was not finite
            rows[f"evaluation on {name}"] = f"loss {result['loss']:.3f}, token accuracy {result['token_accuracy']:.1%}"
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())


def _words(value: Any) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else [str(value)] if value else []


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
