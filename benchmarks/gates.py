"""Gates: whether the bound holds over random splits, and what they save on a porch where nine of ten moments are quiet.

Launch: python benchmarks/gates.py DIGITS [EPOCHS [FOLDER]]    (digits spoiled; about 15 min; what is trained in FOLDER is taken)

Digits and porch: the rows of val and test, dealt out anew 200 times; on each deal the threshold is chosen on some, and what it loses is
counted on the others, and on all; once so that the others by themselves keep the budget, and once so that only all data together do (a
test of a thousand rows is itself unsure by a few tenths of a point). Porch: a model trained and gated on generated scenes, a clip in which
nine of ten moments are quiet played with its gate and without.
"""

from __future__ import annotations

import csv
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from _process import EDGEMM, run
from _results import save

from edgemm.box.bundle.deployment import deploy
from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.bundle.parts import Parts
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.shadowing import Watch
from edgemm.contracts.decision import Decision
from edgemm.contracts.gate import SHADOW
from edgemm.data.dataset import open_dataset
from edgemm.data.sureness import Sureness
from edgemm.pipeline.gating.choosing import Order, Promise, Sides, choose, fix
from edgemm.verbs._demo import scenes

TARGET = "openvino"
DEALS = 200
GATES = [("image", "audio"), ("audio", "image")]  # what is skipped, and after what
DEALT = {"digits": [(0.3, 1250), (0.3, 1700), (1.0, 1250), (1.0, 750), (3.0, 750)], "porch": [(0.3, 3000), (0.3, 1500), (1.0, 1500)]}
"""Points allowed, and rows of val; the others of the 2,500, or 6,000, are test."""
QUIET = ("empty", "silence")
PORCH_ROWS = {"train": 3000, "val": 3000, "test": 3000}
PORCH_EPOCHS = "12"
PORCH_CARD = scenes.CARD.replace("image: {cnn: {channels: [16, 32, 64, 96]", "image: {cnn: {channels: [48, 96, 192, 288]")
"""In the demo's model the picture's branch is the smaller part of a decision; that of a camera is the larger one."""
FPS, SCENE_S, MOMENTS, SIZE = 15, 4, 100, (1280, 720)
BIT_RATE, KEY_S, NOISES = 1_500_000, 2, 8
"""As the cameras of a house send it: a key frame every two seconds, no more bits than a network carries, some noise in every picture."""
LIMIT = 0.01  # of the shadow runs may disagree
SETTLED_S = 1.2  # a window of sound after a change holds both scenes


def main(digits: str, epochs: str = "20", kept_in: str = "") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(kept_in or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = {"digits": deal_digits(digits, epochs, folder), "porch": watch_porch(folder), "drift": find_drift()}
    save("gates", figures)


def deal_digits(data: str, epochs: str, folder: Path) -> dict[str, Any]:
    """How often a loss on rows that were not looked at exceeds what was promised."""
    if not (folder / "digits" / "model.yaml").is_file():
        run([*EDGEMM, "train", "digits", "-d", data, "-o", folder / "digits", "--epochs", epochs])
    run(
        [*EDGEMM, "compress", folder / "digits" / "model.yaml", "-r", "openvino-int8", "-d", data, "-o", folder / "digits_bundle"],
        allowed=(0, 3),
    )
    bundle = open_bundle(folder / "digits_bundle")
    return {f"{skipped} after {after}": deal(bundle, data, skipped, after, DEALT["digits"]) for skipped, after in GATES}


def deal(bundle: Bundle, data: str, skipped: str, after: str, dealt: list[tuple[float, int]]) -> dict[str, Any]:
    beside, pool = answers(bundle, data, ("train",), after, 2000), answers(bundle, data, ("val", "test"), after, None)
    figures: dict[str, Any] = {"rows": len(pool), "deals": DEALS}
    for points, rows in dealt:
        fixed = fix(bundle.card, beside, points)
        told = {"for the test by itself": len(pool) - rows, "for all data alone": 0}
        figures[f"{points:g} points, {rows} rows of val"] = {
            words: deal_out(bundle, pool, fixed, rows, Promise(points, next_rows)) for words, next_rows in told.items()
        }
    return figures


def deal_out(bundle: Bundle, pool: Sides, fixed: Order, rows: int, promise: Promise) -> dict[str, float]:
    sureness, points = Sureness(bundle.card), promise.loss_points
    rng, on_test, on_all, shares = np.random.default_rng(0), list[float](), list[float](), list[float]()
    for _ in range(DEALS):
        order = rng.permutation(len(pool))
        chosen = choose(bundle.card, fixed, pool.rows(order[:rows]), promise)
        skip = sureness.of(chosen.criterion, pool.without) >= (np.inf if chosen.threshold is None else chosen.threshold)
        on_test.append(lost_points(pool.rows(order[rows:]), skip[order[rows:]]))
        on_all.append(lost_points(pool, skip))
        shares.append(float(skip.mean()))
    return {
        "test_exceeds_in": float(np.mean(np.array(on_test) > points + 1e-9)),
        "all_rows_exceed_in": float(np.mean(np.array(on_all) > points + 1e-9)),
        "loses_on_average": float(np.mean(on_all)),
        "skips_on_average": float(np.mean(shares)),
    }


def answers(bundle: Bundle, data: str, splits: tuple[str, ...], after: str, limit: int | None) -> Sides:
    """What the bundle answers on its target to rows of these splits, with all inputs and with ``after`` alone."""
    served, dataset = deploy(bundle, TARGET), open_dataset(data, bundle.card)
    whole: dict[str, list[np.ndarray]] = {}
    without: dict[str, list[np.ndarray]] = {}
    truth: dict[str, list[np.ndarray]] = {}
    with Parts(served.split, served.open_part) as parts:
        for split in splits:
            for batch in dataset.batches(split, 1, shuffle=0 if limit else None, limit=limit):
                embedded = {name: parts.embed(name, batch.inputs) for name in parts.cuts}
                told = (
                    (whole, parts.answer(embedded, served.standins, {})),
                    (without, parts.answer({after: embedded[after]}, served.standins, {})),
                    (truth, batch.truth),
                )
                for side, arrays in told:
                    for name, array in arrays.items():
                        side.setdefault(name, []).append(array)
    return Sides(*({name: np.concatenate(parts) for name, parts in side.items()} for side in (whole, without, truth)))


def lost_points(sides: Sides, skipped: np.ndarray) -> float:
    """Of the one head, in points."""
    name = next(iter(sides.truth))
    right = [side[name].argmax(1) == sides.truth[name] for side in (sides.whole, sides.gated(skipped))]
    return 100 * float(right[0].mean() - right[1].mean())


def watch_porch(folder: Path) -> dict[str, Any]:
    """A porch where nine of ten moments are quiet, and what happens can be heard."""
    data, card, model, bundle = (folder / name for name in ("porch_scenes", "porch.yaml", "porch", "porch_bundle"))
    if not (data / "manifest.csv").is_file():
        write_scenes(data)
    card.write_text(PORCH_CARD, encoding="utf-8")
    if not (model / "model.yaml").is_file():
        run([*EDGEMM, "train", card, "-d", data, "-o", model, "--epochs", PORCH_EPOCHS, "--batch-size", "32", "--lr", "0.003"])
    recipe = {"steps": [{"quantize": {}}], "targets": {TARGET: {}}, "budgets": {"accuracy_drop_points": 1.0}}
    recipe["gates"] = [{"run": "image", "after": "audio", "loss_points": 0.3}]
    (folder / "gated.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    run([*EDGEMM, "compress", model / "model.yaml", "-r", folder / "gated.yaml", "-d", data, "-o", bundle], allowed=(0, 3))
    stream = folder / "porch_stream"
    rng = np.random.default_rng(7)
    happened = [moment(rng, 0.9) for _ in range(MOMENTS)]
    truth = [scenes.EVENTS[picture][sound] for picture, sound in happened]
    if not (stream / "porch.mp4").is_file():
        write_stream(stream, happened)
    measured = run(
        [*EDGEMM, "benchmark", bundle, "-d", data, "--stream", stream, "--rounds", "2", "--launches", "0", "--no-roofline", "--json"]
    )
    gated = json.loads(measured.output)["details"]["gated"]
    opened = open_bundle(bundle)
    (gate,) = opened.gates(TARGET)
    plays = {word: play(bundle, stream, truth, use=word == "gated") for word in ("plain", "gated", "plain", "gated")}
    dealt = deal(opened, str(data), "image", "audio", DEALT["porch"])
    return {
        "gate": gate.plain(),
        "deals": dealt,
        "benchmark": gated,
        "stream": plays,
        "moments": MOMENTS,
        "seconds": MOMENTS * SCENE_S,
        "pictures_s": FPS,
    }


def write_scenes(folder: Path) -> None:
    """Nine of ten rows of val and test are quiet, every second one of train; what happens makes a sound."""
    from PIL import Image

    folder.mkdir(parents=True)
    rows = []
    for number, (split, count) in enumerate(PORCH_ROWS.items()):
        rng = np.random.default_rng(100 + number)
        (folder / split).mkdir()
        for row in range(count):
            picture, sound = moment(rng, 0.5 if split == "train" else 0.9)
            image, audio = f"{split}/{row:05d}.png", f"{split}/{row:05d}.wav"
            Image.fromarray(scenes.draw(picture, rng)).save(folder / image)
            scenes._write_wav(folder / audio, scenes.synthesise(sound, rng))
            rows.append((split, image, audio, scenes.EVENTS[picture][sound]))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("split", "image", "audio", "event"), *rows])


def moment(rng: np.random.Generator, quiet: float) -> tuple[str, str]:
    if rng.random() < quiet:
        return QUIET
    return str(rng.choice(scenes.PICTURES)), str(rng.choice([sound for sound in scenes.SOUNDS if sound != "silence"]))


def write_stream(folder: Path, happened: list[tuple[str, str]]) -> None:
    """A clip of moments of a few seconds each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(8)
    noises = [rng.integers(-4, 5, (SIZE[1], SIZE[0], 1), dtype=np.int16) for _ in range(NOISES)]
    unfinished = folder / "porch.part"
    with av.open(str(unfinished), "w", format="mp4") as file:
        video, audio = file.add_stream("libx264", rate=FPS), file.add_stream("aac", rate=scenes.RATE_HZ, layout="mono")
        video.width, video.height, video.pix_fmt, video.bit_rate = *SIZE, "yuv420p", BIT_RATE
        video.options = {"preset": "veryfast", "tune": "zerolatency", "g": str(KEY_S * FPS), "sc_threshold": "0"}
        for number, (picture, sound) in enumerate(happened):
            drawn = av.VideoFrame.from_ndarray(scenes.draw(picture, rng), format="rgb24")
            still = drawn.reformat(*SIZE, interpolation="BICUBIC").to_ndarray().astype(np.int16)
            noisy = [np.clip(still + noise, 0, 255).astype(np.uint8) for noise in noises]
            wave = np.concatenate([scenes.synthesise(sound, rng) for _ in range(SCENE_S)])
            for place in range(SCENE_S * FPS):
                frame = av.VideoFrame.from_ndarray(noisy[rng.integers(NOISES)], format="rgb24")
                frame.pts = number * SCENE_S * FPS + place
                file.mux(video.encode(frame))
            for start in range(0, len(wave), 1000):
                piece = av.AudioFrame.from_ndarray(wave[None, start : start + 1000], format="fltp", layout="mono")
                piece.sample_rate, piece.pts = scenes.RATE_HZ, number * SCENE_S * scenes.RATE_HZ + start
                file.mux(audio.encode(piece))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))
    unfinished.rename(folder / "porch.mp4")


def play(bundle: Path, stream: Path, truth: list[str], *, use: bool) -> dict[str, float]:
    """The clip through ``run``: calls skipped, accuracy of decisions whose sound is of one moment, processor time."""
    opened = open_bundle(bundle)
    plain = {"gates": {"use": use}, "sources": [{"folder": {"inputs": ["image", "audio"], "path": str(stream)}}]}
    runner = Runner(opened, parse(plain, opened.card), fast=True)
    step, spent, decisions = runner.engine.step, [0.0], list[Decision]()

    def stepped(now: float) -> Decision | None:
        began = time.process_time()
        decision = step(now)
        spent[0] += time.process_time() - began
        return decision

    runner.engine.step = stepped
    runner.on_decision.append(decisions.append)
    began = time.process_time()
    summary = runner.run(threading.Event())
    whole = time.process_time() - began
    settled = [one for one in decisions if one.at_s % SCENE_S > SETTLED_S and int(one.at_s // SCENE_S) < len(truth)]
    right = [
        max(scores, key=scores.__getitem__) == truth[int(one.at_s // SCENE_S)]
        for one in settled
        if (scores := one.readings["event"].scores)
    ]
    skipped, passed = summary.skipped.get("image", (0, summary.ran["image"]))
    return {
        "decisions": summary.decisions,
        "calls_skipped": skipped / max(1, skipped + passed),
        "camera_branch_ran": summary.ran["image"],
        "accuracy": float(np.mean(right)),
        "decisions_scored": len(right),
        "processor_s_of_the_loop": spent[0],
        "processor_s_of_the_run": whole,
    }


def find_drift() -> dict[str, dict[str, float]]:
    """After how many skipped calls a gate opens, once so and so many of them decide otherwise; a limit of 1%, and without drift."""
    found: dict[str, dict[str, float]] = {}
    for share in (0.1, 0.15, 0.25, 0.5):
        draw, calls = random.Random(1), []
        for _ in range(1000):
            watch = Watch(LIMIT)
            for _ in range(300):
                watch.see(draw.random() < LIMIT / 3)
            count = 0
            while not watch.is_open:
                count += 1
                if draw.random() < watch.share(SHADOW):
                    watch.see(draw.random() < share)
            calls.append(count)
        found[f"{share:.0%} disagree"] = {"calls_median": float(np.median(calls)), "within_200": float(np.mean(np.array(calls) <= 200))}
    draw, watch, alarms = random.Random(2), Watch(LIMIT), 0
    for _ in range(100_000):
        if watch.see(draw.random() < LIMIT):
            alarms, watch = alarms + 1, Watch(LIMIT)
    found["as many as allowed"] = {"shadow_runs": 100_000, "opened": alarms}
    return found


if __name__ == "__main__":
    main(*sys.argv[1:4])
