"""Known silent faults of other trainers, each as a context manager that puts the fault into this process.

None of them raises an error, and in most of them the loss looks well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from megatron.core.distributed import finalize_model_grads  # noqa: F401 - the name of its module, too
from megatron.core.transformer import attention

from megatron_train.model import chunked_loss


@contextlib.contextmanager
def _replaced(*replacements: tuple[Any, str, Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, value in replacements:
            patch.setattr(owner, name, value)
        yield


def boundaries_lost_on_middle_stages() -> contextlib.AbstractContextManager[None]:
    """Give the boundaries of packed documents only to the first and the last pipeline stage."""
    forward = chunked_loss.GPTModelWithLoss.forward

    def without_boundaries(self: Any, *arguments: Any, packed_seq_params: Any = None, **keywords: Any) -> Any:
        packed = packed_seq_params if self.pre_process or self.post_process else None
        return forward(self, *arguments, packed_seq_params=packed, **keywords)

    return _replaced((chunked_loss.GPTModelWithLoss, "forward", without_boundaries))


def norm_gradients_not_summed() -> contextlib.AbstractContextManager[None]:
    """Leave out the sum of the norms' gradients over tensor-parallel ranks under sequence parallelism."""
    return _replaced((_finalize_module(), "_allreduce_non_tensor_model_parallel_grads", _nothing))


def tied_embeddings_not_summed() -> contextlib.AbstractContextManager[None]:
    """Leave out the sum of the tied embeddings' gradients over the first and the last pipeline stage."""
    return _replaced((_finalize_module(), "_allreduce_word_embedding_grads", _nothing))


def queries_of_the_first_rank() -> contextlib.AbstractContextManager[None]:
    """With more tensor-parallel ranks than key/value heads, take the same query heads on all ranks of a head."""
    return _replaced((attention, "get_tensor_model_parallel_rank", lambda: 0))


def padding_rows_in_the_softmax() -> contextlib.AbstractContextManager[None]:
    """Give the padding rows of the vocabulary a probability."""
    rows = chunked_loss.VocabularyRows

    def all_in_use(first: int, in_use: int, group: Any) -> chunked_loss.VocabularyRows:
        return rows(first, 10**9, group)

    return _replaced((chunked_loss, "VocabularyRows", all_in_use))


def _finalize_module() -> Any:
    """Return the module finalize_model_grads, whose name in its package is that of its function."""
    import sys

    return sys.modules["megatron.core.distributed.finalize_model_grads"]


def _nothing(*_: Any, **__: Any) -> None:
    pass


FAULTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "none": contextlib.nullcontext,
    "boundaries lost on middle stages": boundaries_lost_on_middle_stages,
    "norm gradients not summed": norm_gradients_not_summed,
    "tied embeddings not summed": tied_embeddings_not_summed,
    "queries of the first rank": queries_of_the_first_rank,
    "padding rows in the softmax": padding_rows_in_the_softmax,
}
