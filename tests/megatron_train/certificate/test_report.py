from __future__ import annotations

import math
from dataclasses import replace

from megatron_train.certificate.comparison import Difference, Worst
from megatron_train.certificate.layouts import NamedLayout
from megatron_train.certificate.report import Result, table, verdict

SMALL = Difference(Worst(1e-7, "", 1), Worst(2e-7, "", 1), Worst(3e-6, "norm", 2), Worst(0.0, "bias"), 0.0, 3)
EQUAL = Result(NamedLayout.of("tp2-pp2-sp"), "fp32", SMALL)


def failures(precision: str = "fp32", **changed: object) -> list[str]:
    return Result(EQUAL.layout, precision, replace(SMALL, **changed)).failures()  # type: ignore[arg-type]


def test_each_kind_of_difference_fails_and_says_where() -> None:
    assert EQUAL.failures() == []
    assert failures(loss=Worst(2e-5, "", 3)) == ["the loss differs by 2.0e-05 (iteration 3), allowed 1e-05"]
    assert failures(grad_norm=Worst(math.nan, "", 1))[0].startswith("the gradient norm differs by nan")
    assert failures(gradient=Worst(0.37, "norm", 1)) == [
        "a gradient differs by 3.7e-01 (norm, iteration 1), allowed 1e-05"
    ]
    assert failures(update=Worst(0.5, "bias")) == ["an update differs by 5.0e-01 (bias), allowed 1e-05"]
    assert failures(copies_apart=0.1) == ["ranks that hold the same tensor disagree by 1.0e-01, allowed 0"]
    assert failures(num_applied=-1) == ["one process and the layout skip different updates"]
    assert failures(num_applied=0) == ["every update was skipped, so nothing was compared"]


def test_16_bit_runs_have_wider_tolerances_and_no_updates() -> None:
    rounded = {"loss": Worst(4e-3), "grad_norm": Worst(4e-2), "gradient": Worst(0.1), "update": Worst(math.inf)}
    assert failures("bf16", **rounded) == []
    assert len(failures("fp32", **rounded)) == 4
    assert failures("fp16", gradient=Worst(0.37, "norm", 1)) != []


def test_the_table_and_the_verdict_in_sentences() -> None:
    broken = Result(NamedLayout.of("pp2"), "bf16", replace(SMALL, loss=Worst(0.1, "", 1)))
    lines = table([EQUAL, broken]).splitlines()
    assert lines[0].startswith(
        "layout      precision  loss     grad norm  gradient  update   verdict    worst gradient"
    )
    assert lines[1].split() == ["tp2-pp2-sp", "fp32", "1.0e-07", "2.0e-07", "3.0e-06", "0.0e+00", "equal", "norm"]
    assert lines[2].split() == ["pp2", "bf16", "1.0e-01", "2.0e-07", "3.0e-06", "-", "NOT", "EQUAL", "norm"]
    assert verdict([EQUAL]) == [
        "EQUAL: tp2-pp2-sp trains as one process does: every loss, gradient norm, gradient and update of 3 iterations "
        "agrees in fp32; the largest relative difference is 3.0e-06, allowed 1e-05"
    ]
    assert verdict([EQUAL, broken]) == [
        "NOT EQUAL: pp2 in bf16 does not train as one process does: the loss differs by 1.0e-01 (iteration 1), allowed "
        "0.005"
    ]
