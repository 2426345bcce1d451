"""Make plans from command lines, as `megatron-train plan` does."""

from __future__ import annotations

from megatron_train.config.flags import parse
from megatron_train.planning.command import plan_parser
from megatron_train.planning.plan import Plan, make_plan


def plan_of(arguments: list[str]) -> Plan:
    own, rest = plan_parser().parse_known_args(arguments)
    return make_plan(parse(rest), own)
