"""Convert checkpoints between Hugging Face, Meta, Megatron-LLM and this project's layout-free checkpoints.

    python -m checkpoint_convert from-hf HF_DIR CKPT_DIR --vocab_extra_ids_list "<|im_start|>,<|im_end|>"
    python -m checkpoint_convert to-hf CKPT_DIR HF_DIR --max_shard_size 2GB
    python -m checkpoint_convert verify HF_DIR CKPT_DIR
    python -m checkpoint_convert verify --receipt HF_DIR
    python -m checkpoint_convert chat HF_DIR

A conversion runs in one process on the CPU, one tensor at a time. Exit code 0 = done, 1 = the data cannot be
converted or differs, 2 = wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoint_convert.command_line import build_parser
from pretokenizer.config.flags import UsageError
from pretokenizer.files.publish import forbid_world_writable

if TYPE_CHECKING:  # the commands import torch only when they run
    import torch

    from checkpoint_convert.mapping.options import ImportOptions
    from checkpoint_convert.output.report import Report
    from checkpoint_convert.verify.verify import Outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the converter that `arguments` (default: sys.argv) name, and return the exit code.

    The code is 0 = done, 1 = failed or different, 2 = wrong usage, 130 = Ctrl-C. This is the entry point of the program
    `checkpoint-convert`.
    """
    try:
        options = argparse.Namespace(**build_parser(__doc__).parse(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    forbid_world_writable()
    try:
        return COMMANDS[options.command](options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, OSError) as error:
        return stopped(error, "" if options.command in ("verify", "chat") else "; nothing was published")


def stopped(error: KeyboardInterrupt | OSError, state: str) -> int:
    """Print on stderr why a command ended early, and then `state`, the text that says what it leaves behind.

    Return the exit code: 130 after Ctrl-C, else 1.
    """
    if isinstance(error, KeyboardInterrupt):
        print(f"interrupted{state}", file=sys.stderr)
        return 130
    where = f"{error.filename}: " if error.filename else ""
    print(f"error: {where}{error.strerror or error}{state}", file=sys.stderr)
    return 1


def run_from_hf(options: argparse.Namespace) -> int:
    from checkpoint_convert.convert import from_hf
    from checkpoint_convert.huggingface.hub import fetched
    from checkpoint_convert.verify.verify import verify

    source = fetched(options.hf_dir)
    report = from_hf(source, options.checkpoint_dir, import_options(options))
    compare = partial(verify, source, options.checkpoint_dir, with_chat=False)
    return finish(report, options.no_verify, compare)


def run_to_hf(options: argparse.Namespace) -> int:
    """Run `to-hf`: export a checkpoint to a Hugging Face folder, and return the exit code.

    With --model, the checkpoint is one of another tool, which is imported into a temporary folder first.
    """
    if not options.model and options.vocab_file:
        print("error: --vocab_file needs --model, which imports a checkpoint of another tool", file=sys.stderr)
        return 2
    if not options.model:
        return export_to_hf(options, options.checkpoint_dir)
    from checkpoint_convert.mapping.options import ImportOptions
    from checkpoint_convert.other_formats.megatron_core import (
        CoreOptions,
        check_foreign,
        from_megatron_core,
        verify_megatron_core,
    )
    from checkpoint_convert.output.staging import check_target, temporary_release

    source = options.checkpoint_dir
    check_foreign(source, options.iteration)
    check_target(options.hf_dir)
    with temporary_release(options.hf_dir) as folder:
        unstated = CoreOptions(options.model, options.vocab_file)
        report = from_megatron_core(source, folder, ImportOptions(), unstated)
        report.folder = Path("a temporary checkpoint")  # the folder is removed below
        code = finish(report, options.no_verify, lambda: verify_megatron_core(source, folder))
        return code or export_to_hf(options, folder)


def export_to_hf(options: argparse.Namespace, checkpoint_dir: Path) -> int:
    from checkpoint_convert.convert import to_hf
    from checkpoint_convert.huggingface.hub import check_hub, push
    from checkpoint_convert.mapping.options import ExportOptions
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
        is_temporary=bool(options.model),
        license=options.license,
        language=options.language,
        datasets=options.datasets,
    )
    report = to_hf(checkpoint_dir, options.hf_dir, export)
    compare = partial(verify, options.hf_dir, checkpoint_dir, options.iteration)
    code = finish(report, options.no_verify, compare, unchecked="the checkpoint's SHA256SUMS nor the result")
    if options.push_to_hub and code == 0:
        try:
            print(f"uploaded to {push(options.hf_dir, options.push_to_hub)}")
        except (KeyboardInterrupt, OSError) as error:
            return stopped(error, f"; {report.folder} is written, but not uploaded")
    return code


def run_from_meta(options: argparse.Namespace) -> int:
    from checkpoint_convert.other_formats.convert import MetaOptions, from_meta, verify_meta

    source, target = options.source_dir, options.checkpoint_dir
    unstated = MetaOptions(options.vocab_file, options.max_position_embeddings, options.rope_scaling_factor)
    report = from_meta(source, target, import_options(options), unstated)
    return finish(report, options.no_verify, lambda: verify_meta(source, target))


def run_from_megatron_llm(options: argparse.Namespace) -> int:
    from checkpoint_convert.other_formats.convert import from_megatron_llm, verify_megatron_llm

    source, target = options.source_dir, options.checkpoint_dir
    report = from_megatron_llm(source, target, import_options(options), options.vocab_file)
    return finish(report, options.no_verify, lambda: verify_megatron_llm(source, target))


def run_from_megatron_core(options: argparse.Namespace) -> int:
    from checkpoint_convert.other_formats.megatron_core import CoreOptions, from_megatron_core, verify_megatron_core

    source, target = options.source_dir, options.checkpoint_dir
    unstated = CoreOptions(options.model, options.vocab_file)
    report = from_megatron_core(source, target, import_options(options), unstated)
    return finish(report, options.no_verify, lambda: verify_megatron_core(source, target))


def run_to_megatron_llm(options: argparse.Namespace) -> int:
    from checkpoint_convert.other_formats.convert import verify_megatron_llm
    from checkpoint_convert.other_formats.megatron_llm_writer import RankOptions, to_megatron_llm

    source, target = options.checkpoint_dir, options.out_dir
    sizes = options.tensor_model_parallel_size, options.pipeline_model_parallel_size
    report = to_megatron_llm(source, target, RankOptions(*sizes, dtype_of(options.dtype), options.iteration))
    return finish(report, options.no_verify, lambda: verify_megatron_llm(target, source, options.iteration))


def run_verify(options: argparse.Namespace) -> int:
    if options.receipt:
        return run_verify_receipt(options.receipt, options.no_replay)
    if not options.checkpoint_dir:
        print("error: verify needs HF_DIR and CKPT_DIR, or --receipt DIR", file=sys.stderr)
        return 2
    from checkpoint_convert.verify.verify import verify

    outcome = verify(options.hf_dir, options.checkpoint_dir, options.iteration)
    print("\n".join(outcome.lines()))
    problems: list[str] = []
    if options.serve:
        from checkpoint_convert.verify.serve import serve
        from megatron_train.checkpoint.folder import find_checkpoint

        served = serve(options.hf_dir, find_checkpoint(options.checkpoint_dir, options.iteration))
        print("\n".join(served.lines()))
        problems = served.problems
    return 0 if outcome.is_equal and not problems else 1


def run_verify_receipt(folder: Path, no_replay: bool) -> int:
    """Run `verify --receipt`: check every file that `folder`/receipt.json covers, then repeat one training iteration.

    Return the exit code: 1 when a file has changed or the iteration gives other figures. The iteration is not repeated
    with `no_replay` or when a file has changed.
    """
    from checkpoint_convert.verify.receipt import check_receipt, replay_receipt

    outcome = check_receipt(folder)
    print("\n".join(outcome.lines()), flush=True)
    if outcome.problems:
        return 1
    if no_replay:
        return 0
    result = replay_receipt(folder)
    print(f"DIFFERS: {result.problem}" if result.problem else result.line)
    return 1 if result.problem else 0


def run_chat(options: argparse.Namespace) -> int:
    from checkpoint_convert.huggingface.terminal_chat import chat, typed_lines

    for _ in chat(options.hf_dir, options.system, options.max_new_tokens, typed_lines()):
        pass
    return 0


def finish(report: Report, no_verify: bool, verify: Callable[[], Outcome], unchecked: str = "") -> int:
    """Print the report of a conversion, then compare source and result with `verify`.

    Return the exit code, 1 when they differ. With `no_verify`, nothing is compared; a line says so, and names what else
    was not checked (`unchecked`).
    """
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
    from checkpoint_convert.mapping.options import ImportOptions

    return ImportOptions(
        extra_special_tokens=options.vocab_extra_ids_list,
        new_tokens=not options.no_new_tokens,
        dtype=dtype_of(options.dtype),
        make_vocab_size_divisible_by=options.make_vocab_size_divisible_by,
        new_token_init=options.new_token_init,
        seed=options.seed,
        ignored_fields=tuple(getattr(options, "ignore_config_field", ())),
    )


def dtype_of(name: str | None) -> torch.dtype | None:
    """Return the torch dtype for a value of --dtype, such as `bf16`. Return None when the flag is not set."""
    from checkpoint_convert.tensors.tensor import DTYPES

    return DTYPES[name] if name else None


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "from-hf": run_from_hf,
    "to-hf": run_to_hf,
    "verify": run_verify,
    "chat": run_chat,
    "from-meta": run_from_meta,
    "from-megatron-llm": run_from_megatron_llm,
    "from-megatron-core": run_from_megatron_core,
    "to-megatron-llm": run_to_megatron_llm,
}

if __name__ == "__main__":
    sys.exit(main())
