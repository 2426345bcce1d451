"""A fixture that converts records as a build does, for the tests of sources."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from pretokenizer.sources import make_source
from pretokenizer.sources.source import BadRecord, InputRecord

Convert = Callable[..., list[Any]]


def simple(converted: Any) -> Any:
    """Return conversations as lists of (stored role's name, text), a reason unchanged, and a bad record's problem."""
    if isinstance(converted, BadRecord):
        return f"bad: {converted.reason}; {converted.found}".removesuffix("; ")
    if isinstance(converted, str):
        return converted
    return [[(message.stored_role.name.lower(), message.text) for message in c.messages] for c in converted]


@pytest.fixture
def convert() -> Convert:
    """Return a function `convert(name, records, seed=42, stem="train", **options)` that converts records in order."""

    def run(name: str, records: list[Any], seed: int = 42, stem: str = "train", **options: Any) -> list[Any]:
        source = make_source(name, options)
        items = [InputRecord(0, row, stem, record) for row, record in enumerate(records)]
        return [simple(converted) for _, converted in source.convert_all(items, random.Random(seed))]

    return run
