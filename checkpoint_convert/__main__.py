"""Checkpoints between Hugging Face, Meta, Megatron-LLM and this project's own layout-free checkpoints.

    python -m checkpoint_convert from-hf HF_DIR CKPT_DIR --vocab_extra_ids_list "<|im_start|>,<|im_end|>"
    python -m checkpoint_convert to-hf CKPT_DIR HF_DIR --max_shard_size 2GB
    python -m checkpoint_convert verify HF_DIR CKPT_DIR

One process, CPU only, one tensor at a time. Exit code 0 = done, 1 = the data cannot be converted or differs, 2 =
wrong usage.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pretokenizer.files.publish import forbid_world_writable

if TYPE_CHECKING:  # the commands import torch only when they run
    import torch

    from checkpoint_convert.mapping.checks import ImportOptions
    from checkpoint_convert.report import Report
    from checkpoint_convert.verify.verify import Outcome

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `checkpoint-convert`."""
    options = build_parser().parse_args(arguments)
    forbid_world_writable()
    try:
        return int(options.run(options))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, OSError) as error:
        return stopped(error, "" if options.command == "verify" else "; nothing was published")


def stopped(error: KeyboardInterrupt | OSError, state: str) -> int:
    """Says why a command ended early and what there is now; its exit code."""
    if isinstance(error, KeyboardInterrupt):
        print(f"interrupted{state}", file=sys.stderr)
        return 130
    where = f"{error.filename}: " if error.filename else ""
    print(f"error: {where}{error.strerror or error}{state}", file=sys.stderr)
    return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="checkpoint_convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_from_hf(commands)
    _add_to_hf(commands)
    _add_other_formats(commands)
    verify = commands.add_parser(
        "verify",
        help="compare a Hugging Face folder with a checkpoint: weights bitwise, logits in fp32",
        allow_abbrev=False,
    )
    verify.add_argument("hf_dir", type=Path, metavar="HF_DIR")
    verify.add_argument("checkpoint_dir", type=Path, metavar="CKPT_DIR")
    verify.add_argument(
        "--iteration", type=int, help="which checkpoint of CKPT_DIR (default: the one its tracker names)"
    )
    verify.set_defaults(run=run_verify)
    return parser


def _add_from_hf(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("from-hf", help="Hugging Face folder -> CKPT_DIR/release", allow_abbrev=False)
    command.add_argument("hf_dir", type=Path, metavar="HF_DIR")
    command.add_argument("checkpoint_dir", type=Path, metavar="CKPT_DIR")
    _add_import_flags(command)
    command.set_defaults(run=run_from_hf)


def _add_import_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--vocab_extra_ids_list",
        type=token_list,
        default=(),
        metavar="TOKENS",
        help='comma list, e.g. "<|im_start|>,<|im_end|>" (default of from-megatron-llm: as the run that it reads)',
    )
    command.add_argument(
        "--no_new_tokens",
        action="store_true",
        help="do not append <CLS> <SEP> <EOD> <MASK> <PAD> before the extra tokens",
    )
    command.add_argument("--dtype", choices=DTYPE_NAMES, help="default: the one that most of the source is in")
    command.add_argument("--make_vocab_size_divisible_by", type=positive_int, default=128, metavar="N")
    command.add_argument(
        "--new_token_init",
        choices=("mean", "last_row", "normal"),
        default="mean",
        help="how rows for new tokens start (default: mean)",
    )
    command.add_argument("--seed", type=int, default=1234, help="of --new_token_init normal")
    command.add_argument("--no_verify", action="store_true", help="do not compare source and result afterwards")


def _add_to_hf(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("to-hf", help="a checkpoint of any layout -> Hugging Face folder", allow_abbrev=False)
    command.add_argument("checkpoint_dir", type=Path, metavar="CKPT_DIR")
    command.add_argument("hf_dir", type=Path, metavar="HF_DIR")
    command.add_argument("--dtype", choices=DTYPE_NAMES, help="default: the one that most of the checkpoint is in")
    command.add_argument(
        "--max_shard_size",
        type=byte_size,
        default=byte_size("2GB"),
        metavar="SIZE",
        help="e.g. 500MB, 2GB, 5GiB (default: 2GB)",
    )
    command.add_argument(
        "--iteration", type=int, help="which checkpoint of CKPT_DIR (default: the one its tracker names)"
    )
    command.add_argument(
        "--vocab_size",
        type=row_choice,
        default="auto",
        metavar="{source,tokenizer,N}",
        help="default: the larger of the two",
    )
    command.add_argument(
        "--no_verify",
        action="store_true",
        help="hold the checkpoint neither against its SHA256SUMS nor, afterwards, against the result",
    )
    command.add_argument("--push_to_hub", metavar="ORG/NAME", help="upload afterwards; the token comes from HF_TOKEN")
    command.set_defaults(run=run_to_hf)


def _add_other_formats(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    meta = commands.add_parser("from-meta", help="Meta's consolidated.*.pth -> CKPT_DIR/release", allow_abbrev=False)
    meta.add_argument("source_dir", type=Path, metavar="DIR")
    meta.add_argument("checkpoint_dir", type=Path, metavar="CKPT_DIR")
    meta.add_argument(
        "--max_position_embeddings", type=positive_int, metavar="N", help="context length, not in the files"
    )
    meta.add_argument(
        "--rope_scaling_factor",
        type=rotary_factor,
        metavar="X",
        help="of Llama 3.1 and later, not in the files (default: 8, for tied models 32)",
    )
    meta.add_argument(
        "--vocab_file",
        type=Path,
        metavar="PATH",
        help="tokenizer.model, for Llama 3 a tokenizer.json (default: tokenizer.model in DIR or above it)",
    )
    _add_import_flags(meta)
    meta.set_defaults(run=run_from_meta)
    llm = commands.add_parser("from-megatron-llm", help="Megatron-LLM -> CKPT_DIR/release", allow_abbrev=False)
    llm.add_argument("source_dir", type=Path, metavar="DIR")
    llm.add_argument("checkpoint_dir", type=Path, metavar="CKPT_DIR")
    llm.add_argument("--vocab_file", type=Path, metavar="PATH", help="tokenizer.model (default: in DIR or above it)")
    _add_import_flags(llm)
    llm.set_defaults(run=run_from_megatron_llm)
    back = commands.add_parser("to-megatron-llm", help="a checkpoint -> Megatron-LLM's own files", allow_abbrev=False)
    back.add_argument("checkpoint_dir", type=Path, metavar="CKPT_DIR")
    back.add_argument("out_dir", type=Path, metavar="DIR")
    back.add_argument("--tensor_model_parallel_size", type=positive_int, default=1, metavar="T")
    back.add_argument("--pipeline_model_parallel_size", type=positive_int, default=1, metavar="P")
    back.add_argument("--dtype", choices=DTYPE_NAMES, help="default: the checkpoint's")
    back.add_argument("--iteration", type=int, help="which checkpoint of CKPT_DIR (default: its tracker's)")
    back.add_argument("--no_verify", action="store_true", help="do not compare checkpoint and result afterwards")
    back.set_defaults(run=run_to_megatron_llm)


def run_from_hf(options: argparse.Namespace) -> int:
    from checkpoint_convert.convert import from_hf
    from checkpoint_convert.verify.verify import verify

    report = from_hf(options.hf_dir, options.checkpoint_dir, import_options(options))
    compare = partial(verify, options.hf_dir, options.checkpoint_dir, with_chat=False)
    return finish(report, options.no_verify, compare)


def run_to_hf(options: argparse.Namespace) -> int:
    from checkpoint_convert.convert import to_hf
    from checkpoint_convert.huggingface.hub import check_hub, push
    from checkpoint_convert.mapping.checks import ExportOptions
    from checkpoint_convert.verify.verify import verify

    if options.push_to_hub:
        check_hub(options.push_to_hub)
    dtype = dtype_of(options.dtype)
    export = ExportOptions(
        dtype,
        options.max_shard_size,
        options.iteration,
        options.vocab_size,
        check_sums=not options.no_verify,
        hub_name=options.push_to_hub,
    )
    report = to_hf(options.checkpoint_dir, options.hf_dir, export)
    compare = partial(verify, options.hf_dir, options.checkpoint_dir, options.iteration)
    code = finish(report, options.no_verify, compare, unchecked="the checkpoint's SHA256SUMS nor the result")
    if options.push_to_hub and code == 0:
        try:
            print(f"uploaded to {push(options.hf_dir, options.push_to_hub)}")
        except (KeyboardInterrupt, OSError) as error:
            return stopped(error, f"; {report.folder} is written, but not uploaded")
    return code


def run_from_meta(options: argparse.Namespace) -> int:
    from checkpoint_convert.other_formats.convert import from_meta, verify_meta

    source, target = options.source_dir, options.checkpoint_dir
    unsaid = options.max_position_embeddings, options.rope_scaling_factor
    report = from_meta(source, target, import_options(options), options.vocab_file, *unsaid)
    return finish(report, options.no_verify, lambda: verify_meta(source, target))


def run_from_megatron_llm(options: argparse.Namespace) -> int:
    from checkpoint_convert.other_formats.convert import from_megatron_llm, verify_megatron_llm

    source, target = options.source_dir, options.checkpoint_dir
    report = from_megatron_llm(source, target, import_options(options), options.vocab_file)
    return finish(report, options.no_verify, lambda: verify_megatron_llm(source, target))


def run_to_megatron_llm(options: argparse.Namespace) -> int:
    from checkpoint_convert.other_formats.convert import verify_megatron_llm
    from checkpoint_convert.other_formats.megatron_llm_writer import to_megatron_llm

    source, target = options.checkpoint_dir, options.out_dir
    sizes = options.tensor_model_parallel_size, options.pipeline_model_parallel_size
    dtype = dtype_of(options.dtype)
    report = to_megatron_llm(source, target, *sizes, dtype, options.iteration)
    return finish(report, options.no_verify, lambda: verify_megatron_llm(target, source, options.iteration))


def run_verify(options: argparse.Namespace) -> int:
    from checkpoint_convert.verify.verify import verify

    outcome = verify(options.hf_dir, options.checkpoint_dir, options.iteration)
    print("\n".join(outcome.lines()))
    return 0 if outcome.is_equal else 1


def finish(report: Report, no_verify: bool, verify: Callable[[], Outcome], unchecked: str = "") -> int:
    """The closing lines, then the comparison of both sides unless it is switched off."""
    print("\n".join(report.lines()), flush=True)
    if no_verify:
        print("not verified (--no_verify)" + (f": neither {unchecked}" if unchecked else ""))
        return 0
    try:
        outcome = verify()
    except (KeyboardInterrupt, OSError) as error:
        return stopped(error, f"; {report.folder} is written, but not verified")
    print("\n".join(outcome.lines()))
    return 0 if outcome.is_equal else 1


def import_options(options: argparse.Namespace) -> ImportOptions:
    from checkpoint_convert.mapping.checks import ImportOptions

    return ImportOptions(
        extra_special_tokens=options.vocab_extra_ids_list,
        new_tokens=not options.no_new_tokens,
        dtype=dtype_of(options.dtype),
        make_vocab_size_divisible_by=options.make_vocab_size_divisible_by,
        new_token_init=options.new_token_init,
        seed=options.seed,
    )


def dtype_of(name: str | None) -> torch.dtype | None:
    """torch's dtype for a word of DTYPE_NAMES."""
    from checkpoint_convert.tensors.tensor import DTYPES

    return DTYPES[name] if name else None


def token_list(text: str) -> tuple[str, ...]:
    """A comma list; quotes that a shell left around it are taken off, as the card's launch script has them."""
    tokens = tuple(token for token in text.strip().strip("\"'").split(",") if token)
    if len(set(tokens)) != len(tokens):
        raise argparse.ArgumentTypeError(f"{text!r} names a token twice")
    return tokens


def byte_size(text: str) -> int:
    """`2GB` -> 2,000,000,000; `1GiB` -> 1,073,741,824."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match.group(2).upper() not in UNITS or float(match.group(1)) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB, 2GB or 5GiB")
    return int(float(match.group(1)) * UNITS[match.group(2).upper()])


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


if __name__ == "__main__":
    sys.exit(main())
