"""Find shipped configurations and the files that a user names. (SHARED with trainer and converter.)"""

import importlib.resources
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def shipped_configs() -> Path:
    """Return the folder of shipped YAML files: `configs/` of a checkout, else the data package of the wheel."""
    folder = REPOSITORY / "configs"
    if folder.is_dir():
        return folder
    return Path(str(importlib.resources.files("oasst_megatron_configs") / "cards.yaml")).parent


def find_config(kind: str, name: str | Path) -> Path:
    """Return the YAML file of a run (`train`) or of an architecture (`model`).

    `name` is a shipped name such as `llama2_70b`, or a path as `find_file` takes it.
    """
    shipped = shipped_configs() / kind / f"{name}.yaml"
    return shipped if Path(name).name == str(name) and shipped.is_file() else find_file(name)


def find_file(path: str | Path) -> Path:
    """Return a path relative to the working folder, else below the checkout or the shipped `configs/`.

    The path is returned unchanged when no such file exists.
    """
    given = Path(path).expanduser()
    if given.exists() or given.is_absolute():
        return given
    candidates = [REPOSITORY / given]
    if given.parts[:1] == ("configs",):
        candidates.append(shipped_configs().joinpath(*given.parts[1:]))
    return next((candidate for candidate in candidates if candidate.exists()), given)
