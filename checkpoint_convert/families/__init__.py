"""FAMILIES maps each value of `ModelConfig.family` to its Family. A new family is a file here and a line below."""

from checkpoint_convert.families.falcon import FALCON
from checkpoint_convert.families.family import Family
from checkpoint_convert.families.gpt_neox import GPT_NEOX
from checkpoint_convert.families.llama import LLAMA
from checkpoint_convert.families.qwen import QWEN2, QWEN3

FAMILIES: dict[str, Family] = {"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3, "gpt_neox": GPT_NEOX, "falcon": FALCON}
