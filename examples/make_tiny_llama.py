"""Writes a small Llama with random weights as a Hugging Face folder: a base model to try the whole pipeline on.

    python examples/make_tiny_llama.py OUT --tokenizer examples/data/tokenizer/sample.model --hidden_size 128

The same flags and seed give the same bytes. The folder holds config.json, model.safetensors and tokenizer.model.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import sentencepiece
import torch
import transformers


def main() -> int:
    options = parse_arguments()
    if options.output_dir.exists():
        print(f"error: {options.output_dir}: exists already; remove it or choose another folder", file=sys.stderr)
        return 1
    if not options.tokenizer.is_file():
        print(f"error: {options.tokenizer}: no such tokenizer.model", file=sys.stderr)
        return 1
    processor = sentencepiece.SentencePieceProcessor(model_file=str(options.tokenizer))
    torch.manual_seed(options.seed)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.LlamaForCausalLM(llama_config(options, processor))
    model.to(getattr(torch, options.dtype)).save_pretrained(options.output_dir)
    shutil.copyfile(options.tokenizer, options.output_dir / "tokenizer.model")
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"wrote {options.output_dir}: a Llama of {count:,} random parameters, {processor.get_piece_size():,} tokens")
    return 0


def llama_config(
    options: argparse.Namespace, processor: sentencepiece.SentencePieceProcessor
) -> transformers.LlamaConfig:
    """Return the model's configuration: sizes from the command line, vocabulary size and ids from the tokenizer."""
    return transformers.LlamaConfig(
        vocab_size=processor.get_piece_size(),
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.num_hidden_layers,
        num_attention_heads=options.num_attention_heads,
        num_key_value_heads=options.num_key_value_heads,
        max_position_embeddings=options.max_position_embeddings,
        tie_word_embeddings=options.tie_word_embeddings,
        rms_norm_eps=1e-5,
        bos_token_id=processor.bos_id(),
        eos_token_id=processor.eos_id(),
        pad_token_id=None,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Writes a small Llama with random weights as a Hugging Face folder.")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path("examples/data/tokenizer/sample.model"))
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--intermediate_size", type=int, default=384)
    parser.add_argument("--num_hidden_layers", type=int, default=4)
    parser.add_argument("--num_attention_heads", type=int, default=4)
    parser.add_argument("--num_key_value_heads", type=int, default=2)
    parser.add_argument("--max_position_embeddings", type=int, default=1024)
    parser.add_argument("--tie_word_embeddings", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--seed", type=int, default=1234)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
