"""Small tokenizers and models of the converter's tests."""

from tests.checkpoint_convert.conftest import hf_folder, json_tokenizer, spm_model

__all__ = ["hf_folder", "json_tokenizer", "spm_model"]
