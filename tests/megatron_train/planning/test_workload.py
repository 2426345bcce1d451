"""A plan's workload states the pipeline bubble, epochs and rows."""

from __future__ import annotations

from pathlib import Path

from megatron_train.planning.workload import bubble_fraction
from tests.conftest import write_shard
from tests.megatron_train.planning.plans import plan_of
from tests.paths import CONFIGS


def test_bubble_of_the_card_is_8_6_percent() -> None:
    assert round(bubble_fraction(4, 1, 32), 3) == 0.086


def test_epochs_are_read_from_existing_shards(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "own", [([5] * 9, [2] * 9)] * 30 + [([5] * 99, [2] * 99)] * 10)
    flags = ["--model", f"{CONFIGS}/model/tiny_llama.yaml", "--train_data_path", shard, "--seq_length", "64"]
    flags += ["--train_iters", "10", "--micro_batch_size", "4", "--world_size", "1"]
    plan = plan_of(flags)
    assert plan.facts is not None and plan.facts.source == "read from the shards"
    assert (plan.work.epochs, plan.facts.documents, plan.facts.mean_tokens) == (1.0, 40, (30 * 9 + 10 * 65) / 40)
    packed = plan_of([*flags, "--packing"])
    assert packed.work.rows_per_epoch == 14  # 10 rows of one truncated document each, and 4 rows of up to 8 short ones
    assert packed.work.positions_per_iteration == 4 * 64
