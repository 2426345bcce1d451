"""Folders that tests of all packages read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""
CONFIGS = ROOT / "configs"
SHARED = ROOT.parent / "shared"
"""Larger test data beside the repository; tests that need it are skipped where it is missing."""
