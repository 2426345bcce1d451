"""pyproject.toml and the Dockerfile accept the same versions."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.paths import ROOT


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        ("2.13.0", True),
        ("2.13.1+cu130", True),
        ("2.13.0a0+8145d630e8.nv26.06", True),  # the version in NVIDIA's containers
        ("2.12.1", False),
        ("2.14.0a0+abc.nv26.09", False),
        ("2.14.0", False),
    ],
)
def test_torch_of_nvidias_containers_is_accepted(version: str, accepted: bool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = [r for r in map(Requirement, project["dependencies"]) if r.name == "torch"]
    assert torch.specifier.contains(version, prereleases=True) is accepted


def test_the_dockerfile_asserts_the_same_series() -> None:
    """The Dockerfile pins the container's own version, which pip compares with the requirement in pyproject.toml."""
    assert re.findall(r"startswith\('([\d.]+)'\)", (ROOT / "Dockerfile").read_text()) == ["2.13"]
