"""Text filters of Open-Assistant: phrases of assistants that speak about themselves, and citation marks.

Source of the phrases: LAION-AI/Open-Assistant f1e6ed9 model_training/custom_datasets/utils.py.
"""

import re

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
"""Phrases that a text must not contain. Open-Assistant lists 36 phrases; the other 15 contain one of these 21."""
# Every phrase contains one of these. Most texts contain none of them, so seven searches suffice.
_MARKS = ("openai", " ai", "as a machine", "cannot", "language model", "knowledge cut", "personal preferences")
_NUMBERS = re.compile(r"\[\d+(?:,\s*\d+)*\]")
_LETTER = re.compile(r"\[[a-zA-Z]\]")


def has_filtered_phrase(text: str) -> bool:
    """Return whether `text` contains one of PHRASES, ignoring case.

    A phrase also counts inside words: "was an AI " has `as an ai `.
    """
    lowered = text.lower()
    for mark in _MARKS:
        if mark in lowered:
            return any(phrase in lowered for phrase in PHRASES)
    return False


def remove_number_citations(text: str) -> str:
    """Return `text` without citations such as `[1]` and `[2, 3]`."""
    return _NUMBERS.sub("", text)


def clean_context(context: str) -> str:
    """Return `context` without `[1]`, `[2, 3]`, `[citation needed]` and `[a]`, removed in this order.

    Spaces around them stay.
    """
    if "[" not in context:
        return context
    return _LETTER.sub("", remove_number_citations(context).replace("[citation needed]", ""))
