"""A search over four Ray nodes, one of which is killed while it works, against the same search on this machine.

Launch: python benchmarks/ray_nodes.py RUN DATA FOLDER    (pip install 'edgemm[ray]'; a quarter of an hour)
RUN: what `edgemm train digits` wrote. FOLDER: where to work; its caches are begun anew. The nodes are processes of this machine:
what is shown is that nothing is lost, not how fast several machines are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from _process import EDGEMM
from _results import save
from search import SPACE

TRIALS, NODES = 20, 4
KILL_AFTER_S = 60.0
"""From when the nodes are known; a trial takes about half a minute."""
MET = re.compile(r"(\d+) nodes with")
PLAN = {**SPACE, "steps": [{"prune": {"macs_ratio": 0.5}}, {"distill": {"steps": 30}}, {"quantize": {"calibration_samples": 100}}]}
"""Trained shorter than where times count."""
CLUSTER = f"""
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}})
others = [cluster.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range({NODES - 1})]
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(others.pop(), allow_graceful=False)
sys.stdin.readline()
cluster.shutdown()
"""


def main(run: Path, data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "space.yaml"
    recipe.write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    command = [*EDGEMM, "search", str(run / "model.yaml"), "-r", str(recipe), "-d", str(data), "--trials", str(TRIALS), "--seed", "0"]
    here = _search(command, folder / "here")
    there = _over_nodes(command, folder / "there")
    same = [(one["options"], one["losses"]) for one in here["trials"]] == [(one["options"], one["losses"]) for one in there["trials"]]
    figures: dict[str, Any] = {"trials": TRIALS, "nodes": NODES, "killed": there["killed"]}
    for name, found in (("this_machine", here), ("over_nodes", there)):
        tried = found["trials"]
        figures[name] = {"tried": len(tried), "with_answers": sum(bool(one["losses"]) for one in tried)}
    save("ray_nodes", {**figures, "same_trials_and_answers": same})


def _over_nodes(command: list[str], place: Path) -> dict[str, Any]:
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(place)
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        killed = 0

        def kill() -> None:
            nonlocal killed
            killed += 1
            print("\n", file=cluster.stdin, end="", flush=True)

        found = _search([*command, "--ray", address], place, kill)
        if not killed:
            raise SystemExit("the search was over before a node was killed")
        print("\n", file=cluster.stdin, end="", flush=True)
    return {**found, "killed": killed}


def _environment(place: Path) -> dict[str, str]:
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "EDGEMM_CACHE": str(place / "cache")}


def _search(command: list[str], place: Path, kill: Callable[[], None] | None = None) -> dict[str, Any]:
    """Its trials; ``kill`` is called once, while they run."""
    shutil.rmtree(place, ignore_errors=True)
    with subprocess.Popen([*command, "-o", str(place / "found")], stderr=subprocess.PIPE, text=True, env=_environment(place)) as running:
        assert running.stderr is not None
        for line in running.stderr:
            print(line, end="", flush=True)
            if kill is not None and MET.search(line):
                timer = threading.Timer(KILL_AFTER_S, kill)
                timer.daemon = True
                timer.start()
    if running.returncode:
        raise SystemExit(f"the search ended with {running.returncode}")
    return {"trials": json.loads((place / "found" / "front.json").read_text(encoding="utf-8"))["trials"]}


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:4]))
