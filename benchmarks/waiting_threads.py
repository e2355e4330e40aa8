"""What a training step and an answer of torch's take when the threads that wait for each other spin, and when they sleep at once, or soon.

Launch: python benchmarks/waiting_threads.py [CARD [THREADS [SECONDS [TURNS]]]]    (by default: digits, 2, 10 s each, 3)

Each of the three is a process of its own, alone and beside one that keeps a core busy; they take turns. p50 of all calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from statistics import median

from _results import save

from edgemm.box.devices import threads

BUSY = "while True: pass"
WAYS = {"spin": {}, "sleep": threads.PASSIVE | {"GOMP_SPINCOUNT": "0"}, "sleep soon": threads.PASSIVE}
STEPS = """
import json, sys, time
import torch
from edgemm.contracts import card_file as cards
from edgemm.workshop.models.tried import sample_inputs
from edgemm.workshop.training.loop import seeded_model

card, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
torch.set_num_threads(threads)
model = seeded_model(cards.load(card), seed=0)
optimizer = torch.optim.AdamW(model.parameters())

def timed(call, inputs):
    times, end = [], time.perf_counter() + seconds / 2
    for _ in range(3):
        call(inputs)
    while time.perf_counter() < end or len(times) < 10:
        start = time.perf_counter()
        call(inputs)
        times.append((time.perf_counter() - start) * 1e3)
    return times

def step(inputs):
    optimizer.zero_grad()
    sum(output.square().mean() for output in model(inputs).values()).backward()
    optimizer.step()

def answer(inputs):
    with torch.inference_mode():
        model(inputs)

def rows(count):
    return {name: torch.cat([value[:1]] * count) for name, value in sample_inputs(model.card).items()}

trained = timed(step, rows(64))
model.eval()
print(json.dumps({"train_step_ms": trained, "original_ms": timed(answer, rows(1))}))
"""


def main(card: str = "digits", count: str = "2", seconds: str = "10", turns: str = "3") -> None:
    times_by_run: dict[str, list[float]] = {}
    for _ in range(int(turns)):
        for beside in ("alone", "beside a busy process"):
            for way, variables in WAYS.items():
                for name, times in _run(variables, beside != "alone", [card, count, seconds]).items():
                    times_by_run.setdefault(f"{name}, {beside}, {way}", []).extend(times)
    save(
        "waiting_threads",
        {"card": card, "threads": int(count), "p50": {name: round(median(times), 2) for name, times in times_by_run.items()}},
    )


def _run(variables: dict[str, str], is_beside: bool, arguments: list[str]) -> dict[str, list[float]]:
    environment = {name: value for name, value in os.environ.items() if name not in (*threads.VARIABLES, "OMP_NUM_THREADS")}
    with ExitStack() as neighbours:
        if is_beside:
            busy = neighbours.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            neighbours.callback(busy.kill)
        command = [sys.executable, "-c", STEPS, *arguments]
        ran = subprocess.run(command, env=environment | variables, check=True, stdout=subprocess.PIPE, text=True)
    times: dict[str, list[float]] = json.loads(ran.stdout.splitlines()[-1])
    return times


if __name__ == "__main__":
    main(*sys.argv[1:5])
