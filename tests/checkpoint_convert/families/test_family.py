"""Unknown fields of config.json pass with a warning or stop the conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import check_fields, read_hf_config
from checkpoint_convert.tensors.tensor import ConvertError

LLAMA = {"model_type": "llama", "hidden_size": 32}
PATH = Path("hf/config.json")


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", {}, []])
def test_an_empty_field_passes_with_one_warning(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check_fields(LLAMA | {"some_new_switch": value}, FAMILIES, PATH)

    assert capsys.readouterr().err.splitlines() == [
        "warning: hf/config.json: fields without effect on the model are left out: some_new_switch"
    ]


def test_a_default_of_transformers_and_a_dump_of_to_dict_pass() -> None:
    check_fields({"model_type": "qwen2", "max_window_layers": 28, "layer_norm_count": None}, FAMILIES, PATH)
    check_fields({"model_type": "mistral", "bos_token_id": 1, "attention_bias_scale": 0}, FAMILIES, PATH)
    check_fields(LLAMA | {"top_k": 50, "temperature": 1.0, "max_length": 20}, FAMILIES, PATH)
    check_fields(LLAMA | {"partial_rotary_factor": 1.0, "layer_types": ["full_attention"] * 2}, FAMILIES, PATH)
    check_fields(LLAMA | {"unsloth_fixed": True, "_commit_hash": "5e3f", "neftune_noise_alpha": 5}, FAMILIES, PATH)


def test_any_other_field_stops_the_conversion_unless_it_is_ignored() -> None:
    config = LLAMA | {"residual_scale": 0.5}
    with pytest.raises(ConvertError, match=r"hf/config\.json: .*residual_scale = 0\.5.*--ignore_config_field"):
        check_fields(config, FAMILIES, PATH)
    check_fields(config, FAMILIES, PATH, ["residual_scale"])


def test_only_a_similar_name_is_suggested() -> None:
    with pytest.raises(ConvertError, match=r"hidden_sizes = 3 \(did you mean 'hidden_size'\?\)"):
        check_fields(LLAMA | {"hidden_sizes": 3}, FAMILIES, PATH)
    with pytest.raises(ConvertError) as error:
        check_fields(LLAMA | {"scale_embeddings": 3}, FAMILIES, PATH)
    assert "did you mean" not in str(error.value)


def test_a_folder_without_config_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--org--m" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(ConvertError, match=r"cache folder of the hub; name .*snapshots/abc"):
        read_hf_config(tmp_path / "models--org--m" / "config.json")

    (tmp_path / "adapter_config.json").write_text("{}")  # peft saves an adapter without config.json
    with pytest.raises(ConvertError, match=r"LoRA adapter .*merge_and_unload"):
        read_hf_config(tmp_path / "config.json")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConvertError, match="hf download org/name --local-dir DIR"):
        read_hf_config(Path("org/name/config.json"))


@pytest.mark.parametrize(
    "field", [{"partial_rotary_factor": 0.5}, {"layer_types": ["full_attention", "linear_attention"]}]
)
def test_fields_of_other_families_are_fatal_when_their_part_is_present(field: dict[str, Any]) -> None:
    with pytest.raises(ConvertError, match=next(iter(field))):
        check_fields(LLAMA | field, FAMILIES, PATH)
