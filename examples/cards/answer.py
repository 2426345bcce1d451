"""Ask an exported folder through transformers alone, with the card's prompt format, as its users do."""

from __future__ import annotations

import json
from pathlib import Path

PROMPT = "What is the capital of France?"


def answer(folder: Path, generation_prompt: str, max_new_tokens: int = 20) -> str:
    """Ask the exported model in `folder` PROMPT through transformers, print prompt and reply, and return the reply.

    `generation_prompt` is the text that starts a reply. Raises ValueError when the rendered prompt does not end in it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    messages = [{"role": "user", "content": PROMPT}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if not text.endswith(generation_prompt):
        raise ValueError(f"{folder}: the prompt is {text!r}, it should end in {generation_prompt!r}")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = model.generate(**ids, max_new_tokens=max_new_tokens, do_sample=False)[0, ids["input_ids"].shape[1] :]
    print(f"prompt  {text!r} = {ids['input_ids'][0].tolist()}")
    spoken = tokenizer.decode(reply, skip_special_tokens=True)
    print(f"reply   {spoken!r} ({len(reply)} tokens from a model of random origin)")
    return str(spoken)


def read_losses(folder: Path) -> list[float]:
    """Return the training loss of each iteration in metrics.jsonl of a run's folder, without those not finite."""
    records = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [record["lm_loss"] for record in records if record.get("lm_loss") is not None]
