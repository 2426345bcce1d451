"""Find sections in YAML files and merge them into one configuration.

    sections = load_sections([Path("my_configs")])
    merged = merge_sections(sections, ["oasst_pre10_min25", "llama2"])

A file holds any number of sections, `name: {key: value}`. Sections are merged from left to right. The merge is shallow:
a later section replaces whole keys, the `datasets` list too. `defaults` always comes first. `name: {sections: [a, b]}`
is an alias that merges other sections. A section that is a list is short for `{datasets: [...]}`.

Instead of a section's name, `FILE.yaml` names the only section of a file, and `FILE.yaml:NAME` one of several.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretokenizer.config.paths import find_file, shipped_configs
from pretokenizer.config.yaml_config import ConfigError, load_yaml, suggest

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Section:
    """One section of a YAML file: its name, its keys with their values, and the path of the file."""

    name: str
    values: dict[str, Any]
    path: Path


def load_sections(config_dirs: Iterable[Path] = ()) -> dict[str, Section]:
    """Return {name: section} of the shipped YAML files and those in `config_dirs`.

    A section replaces one of the same name from an earlier folder.

    Raises ConfigError for a missing folder, a file that is not YAML, and a name that occurs twice in one folder.
    """
    sections: dict[str, Section] = {}
    for folder in (shipped_configs() / "pretokenize", *config_dirs):
        if not folder.is_dir():
            raise ConfigError(f"--config_dir {folder}: no such folder")
        found: dict[str, Section] = {}
        for path in sorted(folder.glob("*.yaml")):
            for name, section in _read_file(path).items():
                if name in found:
                    raise ConfigError(f"{path}: section {name!r} is also in {found[name].path}")
                found[name] = section
        sections |= found
    return sections


def merge_sections(sections: dict[str, Section], names: Sequence[str]) -> dict[str, Any]:
    """Return the keys and values of `defaults` and the named sections, merged from left to right.

    Where no section sets them, `output_dir` is `output/<mix>` and `filename_prefix` is `<mix>`, where `<mix>` names the
    last section with `datasets`, or the alias that was asked for. Raises ConfigError for an unknown name.
    """
    sections, names = _with_files(sections, names)
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
    """Return the names of sections with every alias replaced by the sections it merges.

    `inside` holds the aliases that are being expanded, to find an alias that contains itself. Raises ConfigError for an
    unknown name, and for an alias that contains itself or other keys than `sections`.
    """
    expanded = []
    for name in names:
        if name not in sections:
            if name == "defaults":
                continue
            known = ", ".join(sorted(sections))
            where = f" (in alias {inside[-1]!r})" if inside else ""
            raise ConfigError(
                f"no section {name!r}{where}{suggest(name, sections)}; give one of {known}, or the path of a YAML file"
            )
        if name in inside:
            raise ConfigError(f"{sections[name].path}: alias {name!r} contains itself")
        values = sections[name].values
        if "sections" not in values:
            expanded.append(name)
            continue
        if set(values) != {"sections"} or not isinstance(values["sections"], list):
            raise ConfigError(f"{sections[name].path}: alias {name!r} must hold a list `sections` and nothing else")
        expanded += expand(sections, [str(part) for part in values["sections"]], (*inside, name))
    return expanded


def _with_files(sections: dict[str, Section], names: Sequence[str]) -> tuple[dict[str, Section], list[str]]:
    """Read each `FILE.yaml` or `FILE.yaml:NAME` among `names`, in which commas may separate several names.

    Return `sections` extended by the sections of these files, and `names` with the section's name in place of a file.
    Raises ConfigError for a file that cannot be read, or that does not hold the section.
    """
    sections, resolved = dict(sections), []
    for name in itertools.chain.from_iterable(str(name).split(",") for name in names):
        path, _, wanted = name.partition(":")
        if name in sections or not path.endswith(_SUFFIXES):
            resolved.append(name)
            continue
        own = _read_file(find_file(path))
        if not wanted and len(own) != 1:
            raise ConfigError(f"{path}: holds the sections {', '.join(own) or '(none)'}; name one as {path}:NAME")
        wanted = wanted or next(iter(own))
        if wanted not in own:
            raise ConfigError(f"{path}: has no section {wanted!r}{suggest(wanted, own)}; it holds {', '.join(own)}")
        sections |= own
        resolved.append(wanted)
    return sections, resolved


def _mix_name(sections: dict[str, Section], names: Sequence[str], section: str) -> str:
    """Return the default name of the output: the alias among `names` that merges `section` with other sections.

    Return `section` itself when no such alias was asked for.
    """
    for name in names:
        parts = expand(sections, [name]) if name in sections else []
        if name != section and section in parts and len(parts) > 1:
            return name
    return section


def _read_file(path: Path) -> dict[str, Section]:
    return {
        str(name): Section(str(name), _as_mapping(path, name, values), path) for name, values in load_yaml(path).items()
    }


def _as_mapping(path: Path, name: str, values: Any) -> dict[str, Any]:
    if isinstance(values, list):
        return {"datasets": values}
    if isinstance(values, dict):
        return values
    raise ConfigError(f"{path}: section {name!r} must be `key: value` lines or a list of data sets, found {values!r}")
