"""Builds equal the original's outputs (../shared/goldens.json) byte for byte, with its tokenizer and records."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretokenizer.build import build
from pretokenizer.config.settings import RunOptions, make_config
from pretokenizer.files.shard import ShardReader
from pretokenizer.output.check import check_folder
from tests.pretokenizer.conftest import SHARED, needs_shared

pytestmark = needs_shared
GOLDENS: dict[str, Any] = (
    json.loads((SHARED / "goldens.json").read_text()) if (SHARED / "goldens.json").is_file() else {}
)


@pytest.mark.parametrize("name", sorted(GOLDENS))
def test_output_is_the_originals(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    golden = GOLDENS[name]
    keys = {
        "vocab_file": str(SHARED / "tokenizers/llama2/tokenizer.model"),
        "data_dir": str(SHARED / "data"),
        "write_json": True,
        "special_tokens_in_text": "encode",
    }
    config, _ = make_config({**golden["section"], **keys}, name)
    build(config, RunOptions())
    folder = Path(golden["section"]["output_dir"])
    for file_name, expected in golden["files"].items():
        if not file_name.endswith(".idx"):
            found = hashlib.sha256((folder / file_name).read_bytes()).hexdigest()
            assert found == expected["sha256"], f"{file_name} differs"
            continue
        reader = ShardReader(folder / file_name.removesuffix(".idx"))
        figures = (len(reader), int(reader.sizes.sum()), int(reader.sizes.min()), int(reader.sizes.max()))
        assert figures == tuple(expected[key] for key in ("count", "sizes_sum", "sizes_min", "sizes_max"))
        assert reader.dtype == np.dtype(expected["dtype"])
        assert reader.document_index.tolist() == list(range(len(reader) + 1))
    assert check_folder(folder)[0] == []
    for index, document in golden["train_docs"].items():
        prefix = folder / f"{golden['section']['filename_prefix']}-train"
        assert ShardReader(f"{prefix}-text")[int(index)].tolist() == document["tokens"]
        assert ShardReader(f"{prefix}-role")[int(index)].tolist() == document["roles"]
