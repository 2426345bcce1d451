"""The model families, by `ModelConfig.family`. A new family is a file here and a line below."""

from checkpoint_convert.families.falcon import FALCON
from checkpoint_convert.families.family import Family
from checkpoint_convert.families.gpt_neox import GPT_NEOX
from checkpoint_convert.families.llama import LLAMA

FAMILIES: dict[str, Family] = {"llama": LLAMA, "gpt_neox": GPT_NEOX, "falcon": FALCON}
