"""Fuse the small operations of a layer with torch.compile: --compile.

Rotary embeddings, SwiGLU, and the residual sum with its norm are chains of kernels. Each of these reads and writes all
activations of a layer. torch.compile makes one kernel of each chain. It needs a C++ compiler on the CPU, and Triton on
CUDA. An operation that it cannot compile runs uncompiled, with one warning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from megatron.core.transformer import TransformerConfig

from megatron_train.report.console import warn


@dataclass
class LayerConfig(TransformerConfig):
    """megatron-core's configuration of a layer, with this project's own settings."""

    compile_operations: bool = False
    """Whether torch.compile compiles the operations."""


class Operation(NamedTuple):
    """The forward and the backward pass of an operation, as functions that autograd does not record."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]


class Compiled:
    """A function that torch.compile compiles at its first call. If that fails, the function itself runs from then on.

    Sizes are dynamic, so that rows of another length need no further compilation.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.compiled: Callable[..., Any] | None = torch.compile(function, dynamic=True)
        """The compiled function; None after it has failed."""

    def __call__(self, *arguments: Any) -> Any:
        if self.compiled is not None:
            try:
                return self.compiled(*arguments)
            except Exception as error:  # torch documents no common type of compile errors
                result = self.function(*arguments)  # raises any error that is not the compiler's
                self.compiled = None
                _warn_once(str(error) or type(error).__name__)
                return result
        return self.function(*arguments)


def operation_for(config: Any, operation: Operation) -> Operation:
    """Return `operation`, compiled if `config`, a LayerConfig or a TransformerConfig, asks for it."""
    return compiled(operation) if getattr(config, "compile_operations", False) else operation


@functools.cache
def compiled(operation: Operation) -> Operation:
    """Return `operation` with both passes compiled. The same operation is compiled once in a process."""
    return Operation(Compiled(operation.forward), Compiled(operation.backward))


@functools.cache
def _warn_once(problem: str) -> None:
    warn(f"--compile: torch.compile fails here, so operations run uncompiled: {problem.strip().splitlines()[0]}")
