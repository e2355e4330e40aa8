"""``python -m tests.fuzz [EXAMPLES [SEED [KIND ...]]]``: the long run. Of all kinds it writes result.json; 1 = something was found."""

import json
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from edgemm import __version__
from edgemm.store.cache import machine, version
from edgemm.store.machine import usable_cores
from tests.fuzz.properties import KINDS, Tally, collected

RESULT = Path(__file__).with_name("result.json")
LIBRARIES = ("numpy", "pyyaml", "onnx", "onnxruntime", "torch", "hypothesis")


def main(examples: int = 10_000, number: int = 0, *kinds: str) -> int:
    """Every kind in a process of its own, as many at once as there are cores."""
    tally, began = Tally(), time.monotonic()
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
        running = {pool.submit(collected, kind, max(1, round(examples * KINDS[kind][1] / 100)), number): kind for kind in kinds or KINDS}
        for done in as_completed(running):
            part = done.result()
            tally.counts |= part.counts
            tally.findings |= part.findings
            print(running[done], dict(part.counts[running[done]]), f"{time.monotonic() - began:.0f} s", flush=True)
    for signature, example in tally.findings.items():
        print(f"\nFOUND {signature}\n{example}", flush=True)
    if not kinds:
        write(tally, number)
    return 1 if tally.findings else 0


def write(tally: Tally, number: int) -> None:
    """Counts, findings and what they were found with; no times, no names of machines."""
    counts = {
        kind: {"accepted": found["accepted"], "refused": found.total() - found["accepted"], "by_error": dict(sorted(found.items()))}
        for kind, found in ((kind, tally.counts[kind]) for kind in KINDS)
    }
    for row in counts.values():
        row["by_error"].pop("accepted", None)
    plain = {
        "command": "make fuzz", "seed": number, "examples": sum(row.total() for row in tally.counts.values()),
        "findings": len(tally.findings), "kinds": counts, "processor": machine()["processor"], "python": platform.python_version(),
        "versions": {"edgemm": __version__, **{name: version(name) for name in LIBRARIES}},
    }  # fmt: skip
    RESULT.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(*map(int, words[:2]), *words[2:]))
