"""Real pictures and sounds."""

from pathlib import Path

import pytest

from tests.places import PACKS


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real pictures and sounds; skips where it is absent."""
    folder = PACKS / "media_samples"
    if not folder.is_dir():
        pytest.skip(f"no real pictures and sounds in {folder} (set EDGEMM_DATA)")
    return folder
