"""Where benchmark figures go: results/<device>/<date>.json, one entry a benchmark, with the machine they were taken on.

Under a limit on instructions (``ONEDNN_MAX_CPU_ISA=AVX2``: the same processor without the newer ones), and without AVX-512, the name of the
device says so: some makers' names do not tell.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from edgemm.box.devices.environment import environment
from edgemm.box.targets.openvino import OpenVINO

HERE = Path(__file__).parent


def save(name: str, figures: dict[str, Any], *, beside: bool = False) -> Path:
    """Put ``figures`` under ``name`` into today's file of this device, print them, and return the file.

    Args:
        beside: Keep what stands under ``name`` already, where no new figure has the same key.
    """
    facts = environment(OpenVINO().versions())
    limit = f" {facts['instruction_limit'].split('=')[-1]}" if facts["instruction_limit"] else ""
    if not limit and "avx2" in facts["instructions"] and "avx512f" not in facts["instructions"]:
        limit = " avx2"
    device = re.sub(r"[^a-z0-9]+", "-", f"{facts['device']} {facts['cores']} cores{limit}".lower()).strip("-")
    path = HERE / "results" / device / f"{date.today().isoformat()}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found |= {"environment": facts, name: {**found.get(name, {}), **figures} if beside else figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/\w+/", "", json.dumps(found, indent=1))  # candidates made in a temporary folder
    path.write_text(text + "\n", encoding="utf-8")
    print(json.dumps({name: figures}, indent=1))
    return path


def conclude(name: str, holds: bool, said: str, figures: dict[str, Any]) -> NoReturn:
    """Save a self-proof with its verdict, print that, and exit: 1 where it fails."""
    verdict = f"{'holds' if holds else 'FAILS'}: {said}"
    save(name, {"verdict": verdict, **figures})
    print(verdict)
    sys.exit(not holds)
