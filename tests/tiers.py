"""Mark the tests that launch processes as `slow`, so that `make test-fast` leaves them out, and others as `ranks`.

A test launches processes when its code, a fixture of it, or a function that it calls uses one of LAUNCHERS. The tests
of SLOW_FILES train models in their own process. Other tests that take seconds carry `@pytest.mark.slow` themselves.

The tests that call `run_distributed` are also `ranks`: `make test` runs them one after another, because their ranks
already use all cores and start only once. The other slow tests run in two workers, the tests of a file in one of them.
"""

from __future__ import annotations

import types
from functools import cache

import pytest

LAUNCHERS = {"run_distributed", "subprocess", "multiprocessing", "Popen"}
SLOW_FILES = {
    "tests/megatron_train/checkpoint/test_saver.py",
    "tests/megatron_train/model/test_build.py",
    "tests/megatron_train/model/test_transformer_engine.py",
    "tests/megatron_train/optim/test_optimizer.py",
    "tests/megatron_train/test_main.py",
    "tests/megatron_train/test_preflight.py",
    "tests/megatron_train/test_train.py",
}


def mark_tests(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            file, launchers = item.nodeid.partition("::")[0], launchers_of(item)
            if launchers or file in SLOW_FILES:
                item.add_marker(pytest.mark.slow)
            if "run_distributed" in launchers:
                item.add_marker(pytest.mark.ranks)


def launchers_of(item: pytest.Function) -> set[str]:
    """Return those of LAUNCHERS that a test uses itself, in a fixture, or in a function of the tests that it calls."""
    definitions = item._fixtureinfo.name2fixturedefs.values()
    pending: list[object] = [item.function, *(definition.func for found in definitions for definition in found)]
    seen: set[object] = set()
    launchers: set[str] = set()
    while pending:
        function = pending.pop()
        function = getattr(function, "__wrapped__", function)
        if isinstance(function, types.FunctionType) and function not in seen:
            seen.add(function)
            if function.__module__.startswith("tests."):
                names = names_in(function.__code__)
                launchers |= names & LAUNCHERS
                pending += [function.__globals__.get(name) for name in names]
    return launchers


@cache
def names_in(code: types.CodeType) -> frozenset[str]:
    """Return the global and attribute names in a code object and in the functions inside it."""
    inner = [names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(code.co_names).union(*inner)
