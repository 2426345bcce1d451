"""Mark the tests that launch processes as `slow`, so that `make test-fast` leaves them out.

A test launches processes when its code, a fixture of it, or a function of its module that it calls uses one of LAUNCHERS.
A test that takes seconds without launching anything carries `@pytest.mark.slow` itself.
"""

from __future__ import annotations

import types

import pytest

LAUNCHERS = {"run_distributed", "subprocess", "multiprocessing", "Popen"}


def mark_slow_tests(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and launches(item):
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
