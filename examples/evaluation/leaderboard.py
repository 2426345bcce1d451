"""The six tasks of the Open LLM Leaderboard, with the names and the numbers of examples under which it published them.

LEADERBOARD["arc_challenge"].num_few_shot      # 25
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LeaderboardTask:
    """One task of the Open LLM Leaderboard. The fields are those of an entry in a model card's `model-index`."""

    title: str
    dataset: str
    """Name of the data set on the Hugging Face hub."""
    config: str | None
    split: str
    num_few_shot: int
    """Number of solved examples in each prompt."""
    metric: str
    """Metric of lm-eval, such as `acc_norm,none`, that the leaderboard shows."""
    metric_type: str
    metric_name: str


LEADERBOARD = {
    "arc_challenge": LeaderboardTask(
        "AI2 Reasoning Challenge", "ai2_arc", "ARC-Challenge", "test", 25,
        "acc_norm,none", "acc_norm", "normalized accuracy",
    ),
    "hellaswag": LeaderboardTask(
        "HellaSwag", "hellaswag", None, "validation", 10,
        "acc_norm,none", "acc_norm", "normalized accuracy",
    ),
    "mmlu": LeaderboardTask("MMLU", "cais/mmlu", "all", "test", 5, "acc,none", "acc", "accuracy"),
    "truthfulqa_mc2": LeaderboardTask(
        "TruthfulQA", "truthful_qa", "multiple_choice", "validation", 0, "acc,none", "mc2", "mc2"
    ),
    "winogrande": LeaderboardTask(
        "Winogrande", "winogrande", "winogrande_xl", "validation", 5, "acc,none", "acc", "accuracy"
    ),
    "gsm8k": LeaderboardTask("GSM8k", "gsm8k", "main", "test", 5, "exact_match,strict-match", "acc", "accuracy"),
}  # fmt: skip
"""Task of lm-eval -> its entry on the leaderboard."""
