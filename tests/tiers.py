"""Mark the tests that launch processes as `slow`, so that `make test-fast` leaves them out.

A test launches processes when its code, a fixture of it, or a function that it calls uses one of LAUNCHERS. The tests
of SLOW_FILES train models in their own process. Other tests that take seconds carry `@pytest.mark.slow` themselves.
"""

from __future__ import annotations

import types

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


def mark_slow_tests(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and (item.nodeid.partition("::")[0] in SLOW_FILES or launches(item)):
            item.add_marker(pytest.mark.slow)


def launches(item: pytest.Function) -> bool:
    """Return whether a test or one of its fixtures launches a process."""
    definitions = item._fixtureinfo.name2fixturedefs.values()
    functions = [item.function, *(definition.func for found in definitions for definition in found)]
    return any(uses_a_launcher(function, set()) for function in functions)


def uses_a_launcher(function: object, seen: set[object]) -> bool:
    """Return whether the code of a function of the tests, or of what it calls there, names a launcher."""
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, types.FunctionType) or function in seen or not function.__module__.startswith("tests."):
        return False
    seen.add(function)
    names = names_in(function.__code__)
    return bool(names & LAUNCHERS) or any(uses_a_launcher(function.__globals__.get(name), seen) for name in names)


def names_in(code: types.CodeType) -> set[str]:
    """Return the global and attribute names in a code object and in the functions inside it."""
    inner = [names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)
