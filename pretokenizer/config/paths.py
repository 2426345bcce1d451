"""Where files of the project are, in a checkout and elsewhere. (SHARED with trainer and converter.)"""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED_SECTIONS = REPOSITORY / "configs" / "pretokenize"


def find_file(path: str) -> Path:
    """A path as given, or below the repository when only that exists (for the shipped sample files)."""
    given = Path(path).expanduser()
    if not given.exists() and not given.is_absolute() and (REPOSITORY / given).exists():
        return REPOSITORY / given
    return given
