import json
from pathlib import Path

import numpy as np
import pytest

from pretokenizer.selection.near_duplicates import earlier_similar, run_hashes
from pretokenizer.tasks.plan import BuildError
from tests.pretokenizer.conftest import BuildToy, write_jsonl


def test_runs_stay_inside_documents_and_do_not_depend_on_their_place() -> None:
    one, counts = run_hashes(np.array([1, 2, 3, 4, 5, 6]), np.array([6]))
    assert counts.tolist() == [2]
    many, counts = run_hashes(np.array([9, 1, 2, 3, 4, 5, 6, 9, 9]), np.array([1, 6, 2]))
    assert counts.tolist() == [1, 2, 1]
    assert many[1:3].tolist() == one.tolist()
    assert len(set(many.tolist())) == 4


def test_a_val_document_that_resembles_both_splits_counts_as_leaked() -> None:
    train = np.arange(64, dtype=np.uint32)
    first_val, second_val = train + np.uint32(100), train.copy()
    second_val[:4] = first_val[:4]  # in the first band it agrees with the other val document only
    first_val[4:60] = second_val[4:60]
    signatures = np.stack([train, first_val, second_val])
    assert earlier_similar(signatures, num_train=1).tolist() == [-1, 0, 0]
    assert earlier_similar(signatures[:, ::-1], num_train=1).tolist() == [-1, 0, 0]
    assert earlier_similar(signatures[1:], num_train=0).tolist() == [-1, 0]


def long_text(seed: int, num_words: int = 120) -> str:
    return " ".join(f"w{n}" for n in np.random.RandomState(seed).randint(0, 5000, num_words))


def test_near_duplicates_are_counted_and_named(build_toy: BuildToy, tmp_path: Path) -> None:
    pytest.importorskip("rensa")
    answers = [long_text(0), long_text(1), long_text(0) + " and more", long_text(2)]
    write_jsonl(
        tmp_path / "data/gsm8k/train.jsonl", [{"question": f"q{i}", "answer": a} for i, a in enumerate(answers)]
    )
    val = [{"question": "v", "answer": long_text(2) + " end"}, {"question": "v", "answer": long_text(9)}]
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", val)
    _, folder = build_toy([{"gsm8k": {"fraction": 2.0}}], near_duplicates=True)
    found = json.loads((folder / "stats.json").read_text())["near_duplicates"]
    assert (found["train"], found["leaked"]) == (1, 1)
    assert [(pair["document"]["record"], pair["resembles"]["record"]) for pair in found["examples"]] == [(1, 4), (3, 1)]
    report = (folder / "stats.md").read_text()
    assert "- Near-duplicates inside train: 1; val documents that resemble train: 1\n" in report


def test_without_the_library_the_error_names_it(
    build_toy: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(BuildError, match=r"pip install 'oasst-megatron\[neardup\]'"):
        build_toy(["gsm8k"], near_duplicates=True)
