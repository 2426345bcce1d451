"""Find shipped configurations and the files that a user names. (SHARED with trainer and converter.)"""

import importlib.util
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DATA_PACKAGE = "oasst_megatron_configs"
"""The wheel's package of data files. It has no code, so Python joins all folders of this name on its path."""


def shipped_configs() -> Path:
    """Return the folder of the YAML files that this project ships.

    It is `configs/` in a checkout of the repository, and the folder of DATA_PACKAGE in an installed wheel. Raises
    FileNotFoundError when an installation has neither.
    """
    folder = REPOSITORY / "configs"
    if folder.is_dir():
        return folder
    spec = importlib.util.find_spec(DATA_PACKAGE)
    folders = map(Path, (spec.submodule_search_locations or []) if spec else [])
    found = next((folder for folder in folders if (folder / "cards.yaml").is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{DATA_PACKAGE}: this installation has no configurations; install the package again")
    return found


def find_config(kind: str, name: str | Path) -> Path:
    """Return the path of the YAML file that describes a run (`kind` "train") or a model architecture ("model").

    `name` is the name of a shipped file such as `llama2_70b`, or a path that `find_file` resolves.
    """
    shipped = shipped_configs() / kind / f"{name}.yaml"
    return shipped if Path(name).name == str(name) and shipped.is_file() else find_file(name)


def find_file(path: str | Path) -> Path:
    """Return the first existing file or folder that `path` may mean.

    A relative path is looked up in the working folder, then in the checkout of the repository, then, if it starts with
    `configs/`, among the shipped files. When nothing exists, the path is returned as given.
    """
    given = Path(path).expanduser()
    if given.exists() or given.is_absolute():
        return given
    candidates = [REPOSITORY / given]
    if given.parts[:1] == ("configs",):
        candidates.append(shipped_configs().joinpath(*given.parts[1:]))
    return next((candidate for candidate in candidates if candidate.exists()), given)
