"""Write the tokenizer of an output folder, and make its special_tokens.json and its manifest."""

import dataclasses
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pretokenizer.chat.formats import TEMPLATE_NAME, ChatFormat
from pretokenizer.files.checksums import FileRecord, FinishedFiles
from pretokenizer.files.manifest import MANIFEST_NAME, DataManifest, DatasetCounts, SplitManifest
from pretokenizer.files.publish import write_text_atomic
from pretokenizer.reports.build_reports import BuildReports
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tokenizer.base import Tokenizer

PACKAGES = ("oasst-megatron", "numpy", "sentencepiece", "tokenizers", "gigatoken", "orjson")
"""Packages whose versions the manifest records, because the bytes of an output may depend on them."""


def save_tokenizer(folder: Path, tokenizer: Tokenizer, chat_format: ChatFormat) -> None:
    """Write the tokenizer's files and the chat format's Jinja template into `folder`."""
    tokenizer.save(folder, chat_format.name, adds_bos=False)
    write_text_atomic(folder / TEMPLATE_NAME, chat_format.hf_chat_template, sync=False)


def special_tokens_json(tokenizer: Tokenizer) -> str:
    """Return the contents of special_tokens.json as Open-Assistant writes it, without a line feed at the end."""
    return json.dumps(tokenizer.special_tokens)


def make_manifest(context: BuildContext, reports: BuildReports, output: Path, finished: FinishedFiles) -> DataManifest:
    """Return the manifest of the output folder `output`. The checksums of its files come from `finished`."""
    tokenizer, chat_format = context.tokenizer, context.chat_format
    end_of_turn = tokenizer.token_to_id(chat_format.end_of_turn)
    assert end_of_turn is not None
    files = sorted(path for path in output.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    for path in files:
        finished.add(path)
    return DataManifest(
        chat_format=chat_format.name,
        vocab_size=tokenizer.vocab_size,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_of_turn,
        bos_token_id=tokenizer.bos_token_id,
        tokenizer_fingerprint=tokenizer.fingerprint,
        special_tokens=tokenizer.special_tokens,
        splits={
            split: SplitManifest(
                prefix=f"{context.config.filename_prefix}-{split}",
                documents=sum(s.accepted for s in parts),
                tokens=sum(s.tokens for s in parts),
                datasets=[DatasetCounts(s.name, s.accepted, s.tokens, s.skipped) for s in parts],
            )
            for split, parts in reports.stats.items()
            if any(s.accepted for s in parts)
        },
        section=dataclasses.asdict(context.config),
        versions=versions(),
        inputs={path: FileRecord(**record) for path, record in context.plan.inputs.items()},
        outputs={path.relative_to(output).as_posix(): finished.record(path) for path in files},
        reports=reports.for_manifest(),
    )


def versions() -> dict[str, str]:
    """Return {name: version} of Python and of the installed packages in PACKAGES."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
