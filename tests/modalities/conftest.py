"""Real pictures and sounds."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real pictures and sounds; skips where it is absent."""
    folder = Path(os.environ.get("EDGEMM_DATA") or Path(__file__).parents[3] / "shared" / "data") / "media_samples"
    if not folder.is_dir():
        pytest.skip(f"no real pictures and sounds in {folder} (set EDGEMM_DATA)")
    return folder
