"""The original's word filter: texts in which a model speaks about being one are left out.

Case-insensitive substring search, no word boundaries ("was an AI " holds `as an ai `). These 21 phrases are the minimal
equivalent of the original's 36. Source: LAION-AI/Open-Assistant f1e6ed9 model_training/custom_datasets/utils.py.
"""

PHRASES = (
    "openai",
    "as an ai ",
    "i'm an ai ",
    "i am an ai ",
    "as a machine",
    "i cannot assist",
    "as a neutral ai",
    "i'm sorry, i cannot",
    "as a language model",
    "my knowledge cutoff",
    "my knowledge cut off",
    "as a hypothetical ai",
    "as a large language model",
    "i'm afraid i cannot create",
    "ai cannot create or program",
    "ai language model and i do not",
    "unfortunately, i cannot provide",
    "i don't have personal preferences",
    "i do not have personal preferences",
    "as your dedicated ai language model",
    "an ai language model you don't have",
)
# Every phrase holds one of these; most texts hold none, and are done after seven searches.
_MARKS = ("openai", " ai", "as a machine", "cannot", "language model", "knowledge cut", "personal preferences")


def has_filtered_phrase(text: str) -> bool:
    """Whether the text holds one of the phrases."""
    lowered = text.lower()
    for mark in _MARKS:
        if mark in lowered:
            return any(phrase in lowered for phrase in PHRASES)
    return False
