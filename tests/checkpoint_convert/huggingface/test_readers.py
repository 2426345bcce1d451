"""Other programs can read an exported folder: lm_eval runs on it, and it has what vLLM and llama.cpp read.

Sources: llama.cpp convert_hf_to_gguf.py (set_gguf_parameters of LlamaModel, GPTNeoXModel, FalconModel, and
_create_vocab_sentencepiece); vLLM docs, "Supported models" and "Generation config".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from safetensors import safe_open

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions

CHATML = ("<|im_start|>", "<|im_end|>")
COMMON = {"architectures", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "torch_dtype"}
CONFIG = {
    "llama_gqa": {"intermediate_size", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta"},
    "neox_parallel": {"intermediate_size", "rotary_pct", "use_parallel_residual", "layer_norm_eps"},
    "falcon_7b": {"num_kv_heads", "new_decoder_architecture", "layer_norm_epsilon"},
}
ARCHITECTURES = {
    "llama_gqa": "LlamaForCausalLM",
    "neox_parallel": "GPTNeoXForCausalLM",
    "falcon_7b": "FalconForCausalLM",
}
TASK = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: 0
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def exported(llama_with_tokenizer: Path, tmp_path: Path) -> Path:
    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions(CHATML))
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())
    return tmp_path / "out"


@pytest.mark.parametrize("kind", CONFIG)
def test_config_has_what_llama_cpp_and_vllm_read(kind: str, converted: Callable[[str], Path], tmp_path: Path) -> None:
    to_hf(converted(kind), tmp_path / "out", ExportOptions())
    config = json.loads((tmp_path / "out" / "config.json").read_text())

    assert COMMON | CONFIG[kind] | {"max_position_embeddings"} <= config.keys()
    assert config["architectures"] == [ARCHITECTURES[kind]]
    assert config["torch_dtype"] == config["dtype"] == "float32"


def test_llama_cpp_finds_every_token(exported: Path, spm_model: Path) -> None:
    config, tokens = (json.loads((exported / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    added = {int(i): token["content"] for i, token in tokens["added_tokens_decoder"].items()}

    assert (exported / "tokenizer.model").read_bytes() == spm_model.read_bytes()
    assert {*range(400, 407)} <= added.keys()  # llama.cpp reads ids beyond the model's pieces from here ...
    assert max(added) < config["vocab_size"] == 407  # ... and only below vocab_size
    with safe_open(exported / "model.safetensors", "pt") as file:
        assert file.get_slice("model.embed_tokens.weight").get_shape()[0] == 407


def test_vllm_needs_no_flag(exported: Path) -> None:
    stops = json.loads((exported / "config.json").read_text())["eos_token_id"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)

    assert transformers.GenerationConfig.from_pretrained(exported).eos_token_id == stops
    assert tokenizer.convert_ids_to_tokens(stops) == ["</s>", "<|im_end|>"]
    assert tokenizer.get_chat_template() == (exported / "chat_template.jinja").read_text()
    assert "{% generation %}" in tokenizer.get_chat_template()
    assert not list(exported.glob("*.py"))  # no file asks for trust_remote_code


def test_lm_eval_runs_offline(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (pip install lm_eval)")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": "The dog does not", "choices": [" mind.", " fibonacci"]}] * 2
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK.format(data=tmp_path / "rows.jsonl"))

    results = lm_eval.simple_evaluate(
        "hf",
        model_args={"pretrained": str(exported), "device": "cpu"},
        tasks=["local_choice"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tmp_path), include_defaults=False),
        batch_size=1,
    )

    assert results["results"]["local_choice"]["acc,none"] in (0.0, 1.0)
    assert len(results["samples"]["local_choice"]) == 2
