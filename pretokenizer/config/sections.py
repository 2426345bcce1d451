"""Sections of configuration: finding them in YAML files and merging them left to right.

    sections = load_sections([Path("my_configs")])          # the project's own folder is always read first
    merged = merge_sections(sections, ["oasst_pre10_min25", "llama2"])

A file holds any number of sections, `name: {key: value}`. Merging is shallow: a later section replaces whole keys, the
`datasets` list too. `defaults` is always applied first. `name: {sections: [a, b]}` is an alias that merges others, and
a section that is a list is short for its `datasets`.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretokenizer.config.paths import shipped_configs
from pretokenizer.config.yaml_config import ConfigError, load_yaml, suggest


@dataclass(frozen=True)
class Section:
    """One section and the file it stands in."""

    name: str
    values: dict[str, Any]
    path: Path


def load_sections(config_dirs: Iterable[Path] = ()) -> dict[str, Section]:
    """All sections of the shipped folder and of `config_dirs`; a later folder's section replaces an earlier one."""
    sections: dict[str, Section] = {}
    for folder in (shipped_configs() / "pretokenize", *config_dirs):
        if not folder.is_dir():
            raise ConfigError(f"--config_dir {folder}: no such folder")
        found: dict[str, Section] = {}
        for path in sorted(folder.glob("*.yaml")):
            for name, values in load_yaml(path).items():
                if name in found:
                    raise ConfigError(f"{path}: section {name!r} is also in {found[name].path}")
                found[name] = Section(str(name), _as_mapping(path, name, values), path)
        sections |= found
    return sections


def merge_sections(sections: dict[str, Section], names: Sequence[str]) -> dict[str, Any]:
    """`defaults` and then the named sections, left to right. Raises ConfigError for a name that is not there.

    `output_dir` and `filename_prefix` default to `output/<section>` and `<section>`, after the last section with
    datasets.
    """
    merged: dict[str, Any] = {}
    mix_name = None
    for name in expand(sections, ["defaults", *names]):
        values = sections[name].values
        merged |= values
        if "datasets" in values:
            mix_name = _mix_name(sections, names, name)
    if mix_name:
        merged.setdefault("output_dir", f"output/{mix_name}")
        merged.setdefault("filename_prefix", mix_name)
    return merged


def expand(sections: dict[str, Section], names: Sequence[str], inside: tuple[str, ...] = ()) -> list[str]:
    """Section names with aliases replaced by what they stand for."""
    expanded = []
    for name in itertools.chain.from_iterable(str(name).split(",") for name in names):
        if name not in sections:
            if name == "defaults":
                continue
            known = ", ".join(sorted(sections))
            where = f" (in alias {inside[-1]!r})" if inside else ""
            raise ConfigError(f"no section {name!r}{where}{suggest(name, sections)}; there are {known}")
        if name in inside:
            raise ConfigError(f"{sections[name].path}: alias {name!r} contains itself")
        values = sections[name].values
        if "sections" not in values:
            expanded.append(name)
            continue
        if set(values) != {"sections"} or not isinstance(values["sections"], list):
            raise ConfigError(f"{sections[name].path}: alias {name!r} must hold a list `sections` and nothing else")
        expanded += expand(sections, values["sections"], (*inside, name))
    return expanded


def _mix_name(sections: dict[str, Section], names: Sequence[str], section: str) -> str:
    """What to call the output: the alias where one was given, except for a renamed section, else the section."""
    requested = list(itertools.chain.from_iterable(str(name).split(",") for name in names))
    for name in requested:
        parts = expand(sections, [name]) if name in sections else []
        if name != section and section in parts and len(parts) > 1:
            return name
    return section


def _as_mapping(path: Path, name: str, values: Any) -> dict[str, Any]:
    if isinstance(values, list):
        return {"datasets": values}
    if isinstance(values, dict):
        return values
    raise ConfigError(f"{path}: section {name!r} must be `key: value` lines or a list of data sets, found {values!r}")
