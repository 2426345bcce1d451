"""Chat with an exported folder in the terminal. Only transformers renders prompts and stops replies, as in a server.

    python -m checkpoint_convert chat my-model --system "You answer in one sentence."

An empty line or the end of the input ends the chat; `/new` starts a new conversation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from megatron_train.checkpoint.recognize import described

Messages = list[dict[str, str]]


def chat(folder: Path, system: str | None, max_new_tokens: int, lines: Iterable[str]) -> Iterator[str]:
    """Answer each line that the user types. Yield the answers, which are also printed while they are generated.

    An empty line ends the chat, and `/new` starts a new conversation with the message `system`. Raises ValueError when
    the folder is no Hugging Face folder or its tokenizer has no chat template.
    """
    model, tokenizer = load(folder)
    start: Messages = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    for line in lines:
        if not line.strip():
            return
        if line.strip() == "/new":
            messages = list(start)
            continue
        messages.append({"role": "user", "content": line.strip()})
        answer = stream(model, tokenizer, messages, max_new_tokens)
        messages.append({"role": "assistant", "content": answer})
        yield answer


def load(folder: Path) -> tuple[Any, Any]:
    """Return the model and tokenizer of a Hugging Face folder, in transformers, on the device of OASST_DEVICE.

    Raises ValueError when the folder has no config.json, or no tokenizer with a chat template.
    """
    import transformers

    from megatron_train.parallel.device import uses_cuda

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}/config.json: missing; {folder} {described(folder)}")
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError):
        raise ValueError(
            f"{folder}: transformers cannot load its tokenizer; fetch the missing tokenizer files"
        ) from None
    if not tokenizer.chat_template:
        raise ValueError(f"{folder}: the tokenizer has no chat template, so a conversation cannot be rendered")
    device = "cuda" if uses_cuda() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
    return model, tokenizer


def stream(model: Any, tokenizer: Any, messages: Messages, max_new_tokens: int) -> str:
    """Print the answer to a conversation while it is generated, and return it without special tokens."""
    from transformers import TextStreamer

    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = model.generate(**inputs, streamer=streamer, max_new_tokens=max_new_tokens, pad_token_id=pad)
    answer: str = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer.strip()


def typed_lines() -> Iterator[str]:
    """Yield each line that the user types, after printing a prompt, until the end of the input."""
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            print()
            return
        yield line
