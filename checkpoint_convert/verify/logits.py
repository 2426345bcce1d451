"""Run the same tokens through transformers' model of a folder and megatron-core's model of a checkpoint, in fp32.

The tokens are drawn with a fixed seed from the rows that both sides have. Logits agree when they differ by at most
1e-5, or by 1e-6 of the largest logit if that is above 10.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from checkpoint_convert.families.family import read_hf_config
from checkpoint_convert.tensors.tensor import ConvertError, human_bytes
from megatron_train.config.model_config import ModelConfig

TOLERANCE = 1e-5
NUM_SEQUENCES, NUM_TOKENS = 2, 32
NEEDS_CODE = ("RefinedWebModel", "RefinedWeb")
"""Old names of Falcon's model type. transformers loads them only with code from the model's folder."""
MEMORY_SHARE = 0.5
"""Share of the free memory that both models in fp32 may take. Otherwise logits are not compared."""


@dataclass(frozen=True)
class LogitDifference:
    """How much the logits of two models differ on the same tokens.

    `largest` is the largest absolute difference, `scale` the largest absolute logit of transformers' model, and
    `divergence` the mean KL divergence (transformers || megatron-core) in nats per token.
    """

    largest: float
    scale: float
    divergence: float
    num_tokens: int
    is_rounded: bool = False
    """Whether one side's weights are rounded. A finite difference is then reported but accepted."""

    @property
    def is_close(self) -> bool:
        if not (math.isfinite(self.largest) and math.isfinite(self.divergence)):
            return False
        return self.is_rounded or self.largest <= TOLERANCE * max(1.0, self.scale / 10)

    def describe(self) -> str:
        """Return e.g. `logits agree: differ by at most 9.5e-07 (largest logit 14.2, KL 1.2e-13) over 64 tokens`."""
        state = "DIFFER" if not self.is_close else "after rounding differ" if self.is_rounded else "agree: differ"
        size = f"largest logit {self.scale:.1f}, KL {self.divergence:.1e}"
        return f"logits {state} by at most {self.largest:.1e} ({size}) over {self.num_tokens} tokens, fp32"


def compare_logits(
    hf_dir: Path, checkpoint: Path, model: ModelConfig, rows: int, is_rounded: bool
) -> tuple[LogitDifference | None, str]:
    """Compare the logits of a Hugging Face folder and a checkpoint on random token ids below `rows`.

    `is_rounded` says whether one side's weights are rounded, so that a difference is accepted. Return the difference
    and an empty text, or None and the reason why logits were not compared. Raises ConvertError when transformers cannot
    load the folder.
    """
    needed, free = 2 * 4 * model.num_parameters(model.padded_vocab), psutil.virtual_memory().available
    if needed > MEMORY_SHARE * free:
        return None, f"both models in fp32 need {human_bytes(needed)}, {human_bytes(free)} available"
    if model.untrainable_part:
        return None, f"the trainer does not compute {model.untrainable_part}"
    model_type = read_hf_config(hf_dir / "config.json").get("model_type")
    if model_type in NEEDS_CODE:
        return None, f"transformers runs model_type {model_type} only with the folder's own code"
    tokens = draw_tokens(model, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both libraries warn of things that a user cannot change
        theirs = hugging_face_logits(hf_dir, tokens)
        from megatron_train.inference import single_process_logits

        ours = single_process_logits(checkpoint, tokens)
    return dataclasses.replace(difference(theirs, ours), is_rounded=is_rounded), ""


def draw_tokens(model: ModelConfig, rows: int) -> list[list[int]]:
    """Return random token ids as lists [sequences, tokens], drawn uniformly with a fixed seed.

    The ids are below `rows` and below the number of rows in the model's source.
    """
    rows = min(rows, model.source_vocab_size or rows)
    length = min(NUM_TOKENS, model.max_position_embeddings)
    generator = torch.Generator().manual_seed(20231)
    return torch.randint(rows, (NUM_SEQUENCES, length), generator=generator).tolist()


@torch.no_grad()
def hugging_face_logits(hf_dir: Path, tokens: list[list[int]]) -> torch.Tensor:
    """Return logits [sequences, tokens, vocabulary rows] in fp32 from transformers, without running the folder's code.

    Raises ConvertError naming the folder.
    """
    with quiet_transformers() as transformers:
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                hf_dir, dtype=torch.float32, local_files_only=True
            )
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ConvertError(f"{hf_dir}: transformers cannot load it: {error!r}") from None
        logits: torch.Tensor = model.eval()(torch.tensor(tokens)).logits.float()
        return logits


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """Yield the transformers library, with its progress bars and warnings switched off until the `with` block ends."""
    import transformers

    logging = transformers.utils.logging
    has_bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield transformers
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def difference(theirs: torch.Tensor, ours: torch.Tensor) -> LogitDifference:
    """Return how much two logits tensors [sequences, tokens, vocabulary rows] differ, over the rows that both have.

    `theirs` is from transformers, `ours` from megatron-core.
    """
    rows = min(theirs.shape[-1], ours.shape[-1])
    theirs, ours = theirs[..., :rows].double(), ours[..., :rows].double()
    first, second = theirs.log_softmax(-1), ours.log_softmax(-1)
    divergence = (first.exp() * (first - second)).sum(-1).mean()
    return LogitDifference(
        largest=float((theirs - ours).abs().max()),
        scale=float(theirs.abs().max()),
        divergence=float(divergence),
        num_tokens=theirs.shape[0] * theirs.shape[1],
    )
