"""The fixture `convert` of the tests of sources, which the tests of forms use too."""

from tests.pretokenizer.sources.conftest import convert

__all__ = ["convert"]
