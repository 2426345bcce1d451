"""Packages of the wheel. pyproject.toml has everything else.

`configs/` is installed as the data package `oasst_megatron_configs`, so that the shipped names work outside a checkout.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["pretokenizer*", "megatron_train*", "checkpoint_convert*"]),
        *(f"oasst_megatron_configs{folder}" for folder in ("", ".model", ".pretokenize", ".train")),
    ],
    package_dir={"oasst_megatron_configs": "configs"},
    package_data={"": ["*.yaml"]},
)
