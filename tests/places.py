"""Where the packed datasets, real models and media samples lie."""

import os
from pathlib import Path

PACKS = Path(os.environ.get("EDGEMM_DATA") or Path(__file__).parents[2] / "shared" / "data")
