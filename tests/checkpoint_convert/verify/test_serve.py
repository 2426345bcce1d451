"""The report on serving programs names what each would do wrong with an exported folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoint_convert.__main__ import main
from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.verify.serve import Server, serve

CHATML = ("<|im_start|>", "<|im_end|>")


@pytest.fixture
def exported(llama_with_tokenizer: Path, tmp_path: Path) -> Path:
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "tokenizer_class": "LlamaTokenizer"}
    (llama_with_tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions(CHATML))
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())
    return tmp_path / "out"


def rewrite(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file. A value of None removes the key."""
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def test_every_program_stops_and_sees_the_ids_of_the_shards(exported: Path, tmp_path: Path) -> None:
    outcome = serve(exported, tmp_path / "ckpt" / "release")

    assert outcome.problems == []
    stops = {server.name.split(" ")[0]: server.stop_ids for server in outcome.servers}
    assert stops == {"transformers": [2, 406], "vLLM": [406, 2], "TGI": [2, 406], "llama.cpp": [406]}
    assert {server.template for server in outcome.servers} == {"chat_template.jinja", "tokenizer_config.json"}
    first = outcome.servers[0].prompt_ids
    assert all(server.prompt_ids == first for server in outcome.servers) and first[0] == 405
    assert outcome.reply.startswith("transformers ")


def test_a_stop_that_is_lost_is_wrong(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(exported / "generation_config.json", eos_token_id=2)

    assert main(["verify", str(exported), str(tmp_path / "ckpt"), "--serve"]) == 1

    assert "serve: WRONG: transformers does not stop at 406, where a turn ends, but at [2]\n" in capsys.readouterr().out


def test_a_template_only_in_a_file_is_wrong_for_tgi(exported: Path, tmp_path: Path) -> None:
    rewrite(exported / "tokenizer_config.json", chat_template=None)

    assert serve(exported, tmp_path / "ckpt" / "release").problems == ["TGI finds no chat template"]


def test_a_bos_that_shards_lack_is_wrong_for_llama_cpp(exported: Path, tmp_path: Path) -> None:
    rewrite(exported / "tokenizer_config.json", add_bos_token=True)

    problems = serve(exported, tmp_path / "ckpt" / "release").problems

    assert [problem.replace(" (gguf)", "") for problem in problems] == [
        "llama.cpp sees other ids than the pretokenizer writes, from token 0 on"
    ]


def test_problems_name_the_first_differing_token() -> None:
    server = Server("vLLM", [2], "chat_template.jinja", [5, 6, 7])

    assert server.problems(2, [5, 6, 7]) == []
    assert server.problems(2, [5, 6, 8]) == ["vLLM sees other ids than the pretokenizer writes, from token 2 on"]


def test_a_checkpoint_without_a_tokenizer_is_named(exported: Path, tmp_path: Path) -> None:
    outcome = serve(exported, tmp_path)

    assert outcome.problems == [f"{tmp_path} has no tokenizer/ folder"]
