"""A random Llama over nine words with a chat template, as transformers saves it."""

from __future__ import annotations

from pathlib import Path

WORDS = ["<pad>", "<end>", "user", "assistant", "why", "how", "sky", "sea", "blue"]
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}assistant"


def save_word_model(path: Path) -> Path:
    """Write the model as a Hugging Face folder and return its path. The same call gives the same weights."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=len(WORDS), eos_token_id=1, pad_token_id=0, bos_token_id=None, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
