"""The commands and flags of `python -m checkpoint_convert`. Nothing here imports torch, so that --help is fast."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from pretokenizer.config.flags import Parser

DTYPE_NAMES = ("bf16", "fp16", "fp32")
UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def build_parser(description: str) -> Parser:
    """Return the converter's argument parser with all of its commands, such as from-hf, and their flags.

    `description` is the text at the top of --help.
    """
    parser = Parser(prog="checkpoint_convert", description=description)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_from_hf(commands)
    _add_to_hf(commands)
    _add_from_meta(commands)
    _add_from_megatron_llm(commands)
    _add_from_megatron_core(commands)
    _add_to_megatron_llm(commands)
    verify = commands.add_parser(
        "verify",
        help="compare a Hugging Face folder with a checkpoint: weights bitwise, logits in fp32",
    )
    verify.add_argument("hf_dir", type=user_path, nargs="?", metavar="HF_DIR")
    verify.add_argument("checkpoint_dir", type=user_path, nargs="?", metavar="CKPT_DIR")
    verify.add_argument(
        "--receipt",
        type=user_path,
        metavar="DIR",
        help="instead check every file that DIR/receipt.json covers, and repeat one training iteration bitwise",
    )
    verify.add_argument("--no_replay", action="store_true", help="with --receipt: repeat no training iteration")
    verify.add_argument(
        "--iteration", type=int, help="checkpoint of CKPT_DIR (default: the one that its tracker names)"
    )
    verify.add_argument(
        "--serve",
        action="store_true",
        help="also generate a reply, and check the stop ids, template and ids of transformers, vLLM, TGI and llama.cpp",
    )
    _add_chat(commands)
    return parser


def _add_chat(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser("chat", help="chat with a Hugging Face folder in the terminal")
    command.add_argument("hf_dir", type=user_path, metavar="HF_DIR")
    command.add_argument("--system", metavar="TEXT", help="system message of the conversation")
    command.add_argument("--max_new_tokens", type=int, default=512, metavar="N", help="longest answer in tokens [512]")


def _add_from_hf(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser("from-hf", help="Hugging Face folder -> CKPT_DIR/release")
    command.add_argument(
        "hf_dir", type=user_path, metavar="HF_DIR", help="folder, or ORG/NAME on the hub (needs the extra `hub`)"
    )
    command.add_argument("checkpoint_dir", type=user_path, metavar="CKPT_DIR")
    command.add_argument(
        "--ignore_config_field",
        action="append",
        default=[],
        metavar="NAME",
        help="accept an unknown field of config.json as one without effect (repeatable)",
    )
    _add_import_flags(command)


def _add_import_flags(command: Parser) -> None:
    command.add_argument(
        "--vocab_extra_ids_list",
        type=token_list,
        default=(),
        metavar="TOKENS",
        help='comma list of tokens to add, e.g. "<|im_start|>,<|im_end|>" (from-megatron-llm: default as recorded)',
    )
    command.add_argument(
        "--no_new_tokens",
        action="store_true",
        help="do not append <CLS> <SEP> <EOD> <MASK> <PAD> before the extra tokens",
    )
    command.add_argument("--dtype", choices=DTYPE_NAMES, help="default: the dtype of most of the source")
    command.add_argument("--make_vocab_size_divisible_by", type=positive_int, default=128, metavar="N")
    command.add_argument(
        "--new_token_init",
        choices=("mean", "last_row", "normal"),
        default="mean",
        help="initial value of the rows for new tokens (default: mean)",
    )
    command.add_argument(
        "--seed", type=int, default=1234, help="random seed of --new_token_init normal (default: 1234)"
    )
    command.add_argument("--no_verify", action="store_true", help="do not compare the result with the source")


def _add_to_hf(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser("to-hf", help="checkpoint of any parallel layout -> Hugging Face folder")
    command.add_argument("checkpoint_dir", type=user_path, metavar="CKPT_DIR")
    command.add_argument("hf_dir", type=user_path, metavar="HF_DIR")
    command.add_argument(
        "--model",
        metavar="NAME_OR_YAML",
        help="import CKPT_DIR from another tool first (from-megatron-core), as this architecture of configs/model",
    )
    command.add_argument(
        "--vocab_file",
        type=user_path,
        metavar="PATH",
        help="with --model: tokenizer.model or tokenizer.json (default: in CKPT_DIR)",
    )
    command.add_argument("--dtype", choices=DTYPE_NAMES, help="default: the dtype of most of the checkpoint")
    command.add_argument(
        "--max_shard_size",
        type=byte_size,
        default=byte_size("2GB"),
        metavar="SIZE",
        help="e.g. 500MB, 2GB, 5GiB (default: 2GB)",
    )
    command.add_argument(
        "--iteration", type=int, help="checkpoint of CKPT_DIR (default: the one that its tracker names)"
    )
    command.add_argument(
        "--vocab_size",
        type=row_choice,
        default="auto",
        metavar="{source,tokenizer,N}",
        help="embedding rows to write (default: the larger of source and tokenizer)",
    )
    command.add_argument(
        "--no_verify",
        action="store_true",
        help="verify neither the checkpoint's SHA256SUMS nor the result",
    )
    card = command.add_argument_group("front matter of the model card")
    card.add_argument("--license", metavar="ID", help="identifier of the licence on the hub, such as apache-2.0")
    card.add_argument("--language", type=token_list, default=(), metavar="CODES", help="comma list, such as en,de")
    card.add_argument(
        "--datasets", type=token_list, default=(), metavar="NAMES", help="comma list, such as OpenAssistant/oasst1"
    )
    command.add_argument("--push_to_hub", metavar="ORG/NAME", help="upload the result; HF_TOKEN holds the token")


def _add_from_meta(commands: argparse._SubParsersAction[Parser]) -> None:
    meta = commands.add_parser("from-meta", help="Meta's consolidated.*.pth -> CKPT_DIR/release")
    meta.add_argument("source_dir", type=user_path, metavar="DIR")
    meta.add_argument("checkpoint_dir", type=user_path, metavar="CKPT_DIR")
    meta.add_argument(
        "--max_position_embeddings",
        type=positive_int,
        metavar="N",
        help="context length in tokens, which the files do not state",
    )
    meta.add_argument(
        "--rope_scaling_factor",
        type=rotary_factor,
        metavar="X",
        help="rotary factor of Llama 3.1 and later, which the files do not state (default: 8, for tied models 32)",
    )
    meta.add_argument(
        "--vocab_file",
        type=user_path,
        metavar="PATH",
        help="tokenizer.model, or tokenizer.json for Llama 3 (default: tokenizer.model in DIR or its parent)",
    )
    _add_import_flags(meta)


def _add_from_megatron_llm(commands: argparse._SubParsersAction[Parser]) -> None:
    llm = commands.add_parser("from-megatron-llm", help="Megatron-LLM -> CKPT_DIR/release")
    llm.add_argument("source_dir", type=user_path, metavar="DIR")
    llm.add_argument("checkpoint_dir", type=user_path, metavar="CKPT_DIR")
    llm.add_argument(
        "--vocab_file", type=user_path, metavar="PATH", help="tokenizer.model (default: in DIR or its parent)"
    )
    _add_import_flags(llm)


def _add_from_megatron_core(commands: argparse._SubParsersAction[Parser]) -> None:
    core = commands.add_parser(
        "from-megatron-core",
        help="torch_dist checkpoint of megatron-core, Megatron-LM or Megatron-Bridge -> CKPT_DIR/release",
    )
    core.add_argument("source_dir", type=user_path, metavar="DIR")
    core.add_argument("checkpoint_dir", type=user_path, metavar="CKPT_DIR")
    core.add_argument(
        "--model", metavar="NAME_OR_YAML", help="architecture of configs/model (default: the settings in DIR)"
    )
    core.add_argument(
        "--vocab_file", type=user_path, metavar="PATH", help="tokenizer.model or tokenizer.json (default: in DIR)"
    )
    _add_import_flags(core)


def _add_to_megatron_llm(commands: argparse._SubParsersAction[Parser]) -> None:
    back = commands.add_parser("to-megatron-llm", help="checkpoint -> Megatron-LLM's own files")
    back.add_argument("checkpoint_dir", type=user_path, metavar="CKPT_DIR")
    back.add_argument("out_dir", type=user_path, metavar="DIR")
    back.add_argument("--tensor_model_parallel_size", type=positive_int, default=1, metavar="T")
    back.add_argument("--pipeline_model_parallel_size", type=positive_int, default=1, metavar="P")
    back.add_argument("--dtype", choices=DTYPE_NAMES, help="default: the dtype of most of the checkpoint")
    back.add_argument("--iteration", type=int, help="checkpoint of CKPT_DIR (default: the one that its tracker names)")
    back.add_argument("--no_verify", action="store_true", help="do not compare the result with the checkpoint")


def token_list(text: str) -> tuple[str, ...]:
    """Return the tokens of a comma-separated list. Raises ArgumentTypeError when one occurs twice.

    Quotes around the list are removed, because some launch scripts pass them on.
    """
    tokens = tuple(token for token in text.strip().strip("\"'").split(",") if token)
    if len(set(tokens)) != len(tokens):
        raise argparse.ArgumentTypeError(f"{text!r} names a token twice")
    return tokens


def byte_size(text: str) -> int:
    """Return the number of bytes in a size such as `2GB` (2,000,000,000) or `1GiB` (1,073,741,824).

    Raises ArgumentTypeError for any other text.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match.group(2).upper() not in UNITS or float(match.group(1)) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB, 2GB or 5GiB")
    return int(float(match.group(1)) * UNITS[match.group(2).upper()])


def user_path(text: str) -> Path:
    """Return the path with a leading `~` replaced by the home folder, which a shell does not do in --flag=~/folder."""
    return Path(text).expanduser()


def positive_int(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def rotary_factor(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return float(text)


def row_choice(text: str) -> str:
    if text not in ("auto", "source", "tokenizer") and not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is neither source, tokenizer nor a number of rows")
    return text
