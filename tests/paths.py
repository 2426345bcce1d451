"""Folders that the tests of several packages read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root folder."""
CONFIGS = ROOT / "configs"
SHARED = ROOT.parent / "shared"
"""Larger test data beside the repository. Tests that need it are skipped when it is missing."""
