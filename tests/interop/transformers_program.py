"""A program: print as JSON what the transformers version on PYTHONPATH makes of model folders.

    PYTHONPATH=PACKAGES python transformers_program.py TEXTS.json FOLDER ...

TEXTS.json holds a list of texts. The output is {"version": ..., FOLDER: {"ids", "chat", "stops", "reply", "logits"}}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

MESSAGES = [{"role": "user", "content": "The  dog é 🎉?"}, {"role": "assistant", "content": " Yes.\n\n  It does"}]


@torch.no_grad()
def describe(folder: str, texts: list[str]) -> dict[str, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    rendered = tokenizer.apply_chat_template(MESSAGES, tokenize=False) if tokenizer.chat_template else ""
    prompt = torch.as_tensor([list(range(3, 19))])
    reply = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12)
    return {
        "ids": [tokenizer(text)["input_ids"] for text in texts],
        "chat": tokenizer(rendered, add_special_tokens=False)["input_ids"],
        "stops": model.generation_config.eos_token_id,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "reply": reply[0].tolist(),
        "logits": model(prompt).logits[0, -1].tolist(),
    }


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = {folder: describe(folder, given) for folder in sys.argv[2:]}
    print(json.dumps({"version": transformers.__version__, **found}))
