"""A trained checkpoint through every peer and through edgemm; what comes of it is kept for `measure.py`.

Launch: python benchmarks/peers/compress.py NAME CARD DATA [--only PEER ...] [--no-training] [--again] [--environments FOLDER]
A peer whose script, packages and checkpoint have not changed is not run again, unless asked. NAME is what the table calls the model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from _process import EDGEMM, run  # noqa: E402  beside this folder
from environment import OURS, PACKAGES, folder_of, python_of  # noqa: E402

from edgemm.contracts import card_file as cards  # noqa: E402
from edgemm.data.dataset import open_dataset  # noqa: E402

CALIBRATION = 300
PEERS = ("ours", *sorted(PACKAGES))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("card")
    parser.add_argument("data")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--no-training", action="store_true", help="leave out what trains: for a model whose weights are random")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--environments", type=Path)
    given = parser.parse_args()
    place = work() / given.name
    card = str(cards.load(given.card).path)
    prepare(place, card, str(Path(given.data).resolve()))
    for peer in given.only:
        left_out = getattr(script(peer), "TRAINS", ()) if given.no_training else ()
        for form in (form for form in script(peer).FORMS if form not in left_out):
            row = compressed(peer, form, place, again=given.again, environments=folder_of(given.environments))
            print(json.dumps({key: row.get(key) for key in ("peer", "form", "works", "why", "seconds", "cpu_seconds", "peak_rss_mib")}))


def work() -> Path:
    """Where compressed models are kept: beside the environments, in edgemm's cache."""
    return folder_of(None) / "work"


def prepare(place: Path, card: str, data: str) -> None:
    """The float graph and the calibration samples that all start from; made anew where the checkpoint has changed."""
    identity = {"card": card, "data": data, "weights": _digest(cards.load(card).weights_path)}
    kept = place / "given.json"
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8")) == identity:
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    run([*EDGEMM, "export", card, "-d", data, "-o", place / "float"])
    batches = list(open_dataset(data, cards.load(card)).batches("train", 1, limit=CALIBRATION))
    np.savez(place / "calibration.npz", **{name: np.concatenate([b.inputs[name] for b in batches]) for name in batches[0].inputs})
    kept.write_text(json.dumps(identity, indent=1), encoding="utf-8")


def compressed(peer: str, form: str, place: Path, *, again: bool, environments: Path) -> dict[str, Any]:
    """One peer's try, cached: the candidate it made, or how it failed; seconds, processor seconds, memory."""
    out = place / peer / form
    packages = PACKAGES.get(peer, [])
    sources = [path.read_bytes() for path in (HERE / f"{peer}.py", HERE / "_given.py", HERE / "_torch_model.py")]
    key = hashlib.sha256(b"\0".join([*sources, json.dumps(packages).encode()])).hexdigest()
    kept = out / "row.json"
    if not again and kept.is_file() and (row := json.loads(kept.read_text(encoding="utf-8")))["key"] == key:
        return dict(row)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    given = json.loads((place / "given.json").read_text(encoding="utf-8"))
    words = [given["card"], given["data"], place / "float" / "model.onnx", place / "calibration.npz", out, form]
    python = Path(sys.executable) if peer == "ours" else python_of(peer, environments)
    if python.is_file():
        cost = run([python, HERE / "_measured.py", HERE / f"{peer}.py", *words], allowed=range(-64, 256))
        said = cost.output.strip().splitlines() or ["its process died without a word"]
        answer = json.loads(said[-1]) if said[-1].startswith("{") else {"works": False, "why": said[-1]}
    else:
        answer = {"works": False, "why": f"its packages are not installed: environment.py {peer}"}
    row = {"peer": peer, "form": form, "key": key, "lines": lines(peer), "packages": [p for p in packages if p not in OURS], **answer}
    kept.write_text(json.dumps(row, indent=1), encoding="utf-8")
    return row


def script(peer: str) -> ModuleType:
    spec = spec_from_file_location(peer, HERE / f"{peer}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(peer: str) -> int:
    """Lines that a user has to write: the peer's script without comments, strings that explain, and our own frame."""
    module = script(peer)
    if hasattr(module, "LINES"):
        return int(module.LINES)
    code = (HERE / f"{peer}.py").read_text(encoding="utf-8").split('"""', 2)[2].split("FORMS =", 1)[1].splitlines()[1:]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in code)


def _digest(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""


if __name__ == "__main__":
    main()
