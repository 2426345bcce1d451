"""The micro-batch size that the plan advises."""

from __future__ import annotations

from megatron_train.planning.micro_batch import advise_micro_batch
from tests.megatron_train.planning.plans import plan_of

LLAMA_8B = ["--model", "llama3_8b", "--bf16", "--seq_length", "4096", "--packing"]
LLAMA_8B += ["--train_data_path", "x", "--train_iters", "9"]


def advice(arguments: list[str]) -> tuple[int, float] | None:
    """Return the advised micro-batch size and its GiB for an 8-billion-parameter model."""
    plan = plan_of([*LLAMA_8B, *arguments])
    found = advise_micro_batch(plan.config, plan.model, plan.facts, plan.layout, plan.device, plan.mfu)
    return found and (found.micro_batch_size, round(found.gib, 1))


def test_advised_micro_batch_is_the_largest_that_fits_without_a_pipeline() -> None:
    dp8 = ["--world_size", "8", "--global_batch_size", "128"]
    assert advice([*dp8, "--gpu", "h200-141gb"]) == (2, 99.4)
    assert advice([*dp8, "--gpu", "h100-80gb"]) is None
    recompute = ["--recompute_granularity", "full", "--recompute_method", "uniform", "--recompute_num_layers", "1"]
    assert advice([*dp8, "--gpu", "h100-80gb", *recompute]) == (4, 70.5)


def test_advised_micro_batch_divides_the_rows_of_a_rank() -> None:
    assert advice(["--world_size", "8", "--global_batch_size", "24", "--gpu", "h200-141gb"]) == (1, 80.4)


def test_advised_micro_batch_keeps_the_pipeline_busy() -> None:
    pipeline = ["--pipeline_model_parallel_size", "4", "--global_batch_size", "32", "--gpu", "h200-141gb"]
    assert advice(["--world_size", "4", *pipeline]) == (1, 59.5)
