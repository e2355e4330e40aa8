"""Two networks of other people, one that sees a person and one that hears a voice, fused and compressed by commands alone.

The picture's is MLPerf Tiny's visual wake words (MobileNetV1 0.25), its published arrays written as ONNX here;
the sound's is Silero's voice detector as it comes. Rows pair frames of a camera with windows of speech or noise.

Launch: python benchmarks/foreign_fusion.py DATA    (the folder that holds real_models and avdigits; about 3 min)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _process import EDGEMM, run
from _results import save
from onnx import TensorProto, helper, numpy_helper

CARD = """
model: vww.onnx
inputs:
  image: {modality: image, height: 96, width: 96, channels: 3}
outputs:
  person: {task: classification, labels: [no person, person]}
"""
WINDOW, CONTEXT = 512, 64  # samples that Silero hears at a time, and those before
ROWS = {"train": 40, "val": 400, "test": 800}
HEARD = 0.8  # how often a person is heard, and nobody is not
AUDIO = ("silero_vad_16k_op15.onnx", "voice.onnx")


def main(data: str) -> None:
    packs = Path(data)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "yard").mkdir()
        (folder / "sound").mkdir()
        onnx.save(visual_wake_words(packs / "real_models"), str(folder / "yard" / "vww.onnx"))
        (folder / "yard" / "model.yaml").write_text(CARD, encoding="utf-8")
        voice = folder / "sound" / AUDIO[1]
        voice.write_bytes((packs / "real_models" / AUDIO[0]).read_bytes())
        run([*EDGEMM, "init", voice, "-o", folder / "sound" / "model.yaml"])
        _say_what_it_means(folder / "sound" / "model.yaml")
        write_rows(packs, folder / "rows")
        labels = ["--label", "nobody: no person, quiet", "--label", "somebody: person, voice"]
        members = [f"yard={folder / 'yard' / 'vww.onnx'}", f"sound={voice}"]
        where = ["-d", folder / "rows", "-o"]
        run([*EDGEMM, "fuse", *members, "--head", "event: yard, sound.output", *labels, *where, folder / "fused"])
        card = folder / "fused" / "model.yaml"
        run([*EDGEMM, "compress", card, "-r", "openvino-int8", *where, folder / "bundle"], allowed=(0, 3))
        verified = run([*EDGEMM, "verify", folder / "bundle"])
        fused, bundle = (json.loads((folder / name / "report.json").read_text(encoding="utf-8")) for name in ("fused", "bundle"))
    kept = ("value", "low", "high", "n")
    figures: dict[str, Any] = {"trained": {m["candidate"]: {key: m[key] for key in kept} for m in fused["measurements"]}}
    after = [m for m in bundle["measurements"] if m["name"] == "accuracy" and m["subject"] == "bundle"]
    figures["compressed"] = [{key: m.get(key) for key in ("target", "modalities", *kept)} for m in after]
    figures["ece"] = {row["form"]: row["known"]["ece"] for report in (fused, bundle) for row in report["details"]["calibration"]}
    save("foreign_fusion", {**figures, "notes": fused["details"]["notes"], "verified": verified.output.strip().splitlines()[-1]})


def visual_wake_words(packs: Path) -> onnx.ModelProto:
    """The network of ``vww_96_weights``: pixels of 0 to 1, (N, 3, 96, 96) -> chances (N, 2)."""
    layers = json.loads((packs / "vww_96_weights.json").read_text(encoding="utf-8"))
    weights = np.load(packs / "vww_96_weights.npz")
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    for layer in layers[1:]:
        name, kind, (source,) = layer["name"], layer["cls"], layer["inputs"]
        source = "image" if source == layers[0]["name"] else source
        if kind in ("Conv2D", "DepthwiseConv2D"):
            deep = kind == "DepthwiseConv2D"
            kernel = weights[f"{name}/{'depthwise_kernel' if deep else 'kernel'}"].transpose((2, 3, 0, 1) if deep else (3, 2, 0, 1))
            inputs = [source, constant(f"{name}/kernel", kernel), constant(f"{name}/bias", weights[f"{name}/bias"])]
            group = len(kernel) if deep else 1
            nodes.append(helper.make_node("Conv", inputs, [name], name, auto_pad="SAME_UPPER", strides=layer["strides"], group=group))
        elif kind == "BatchNormalization":
            keys = ("gamma", "beta", "moving_mean", "moving_variance")
            inputs = [source, *(constant(f"{name}/{key}", weights[f"{name}/{key}"]) for key in keys)]
            nodes.append(helper.make_node(kind, inputs, [name], name, epsilon=layer["epsilon"]))
        elif kind == "Activation":
            nodes.append(helper.make_node("Relu", [source], [name], name))
        elif kind == "AveragePooling2D":
            nodes.append(helper.make_node("AveragePool", [source], [name], name, kernel_shape=layer["pool_size"], strides=layer["strides"]))
        elif kind == "Flatten":
            nodes.append(helper.make_node("Flatten", [source], [name], name))
        else:  # the Dense layer at the end, with its softmax
            inputs = [source, constant(f"{name}/kernel", weights[f"{name}/kernel"]), constant(f"{name}/bias", weights[f"{name}/bias"])]
            nodes.append(helper.make_node("Gemm", inputs, [name], name))
            nodes.append(helper.make_node("Softmax", [name], ["person"], "chances", axis=-1))
    taken = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 96, 96])]
    answered = [helper.make_tensor_value_info("person", TensorProto.FLOAT, ["batch", 2])]
    graph = helper.make_graph(nodes, "visual wake words", taken, answered, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _say_what_it_means(card: Path) -> None:
    """What a person writes into the drafted card: its output is a voice or none."""
    lines = card.read_text(encoding="utf-8").splitlines()
    changed = ["  output: {task: classification, labels: [quiet, voice]}" if line.startswith("  output:") else line for line in lines]
    assert changed != lines
    card.write_text("\n".join(changed) + "\n", encoding="utf-8")


def write_rows(packs: Path, folder: Path) -> None:
    """``<split>.npz``: frames with a person or none, windows with a voice or noise; whoever is seen is heard in ``HEARD`` of the rows."""
    folder.mkdir()
    frames = np.load(packs / "real_models" / "vww_frames.npz")
    pcm = np.load(packs / "avdigits" / "avdigits_wave.npz")
    known = np.flatnonzero(frames["label"] != 255)
    for number, (split, count) in enumerate(ROWS.items()):
        rng = np.random.default_rng(number)
        of_split = known[known % 3 == number]  # every third frame: its neighbours are 1.5 s away
        there = rng.random(count) < 0.5
        pools = [of_split[frames["label"][of_split] == kind] for kind in (0, 1)]
        chosen = np.array([rng.choice(pools[int(one)]) for one in there])
        heard = np.where(rng.random(count) < HEARD, there, ~there)
        clips = pcm["audio"][pcm["audio_split"] == number]
        sound = np.stack([_voice(clips, rng) if one else _noise(rng) for one in heard])
        event = np.where(there, "somebody", "nobody")
        np.savez(folder / f"{split}.npz", image=frames["image"][chosen], input=sound.astype(np.float32), event=event)


def _voice(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The loudest 36 ms of a spoken digit, 8 kHz doubled, in a little noise."""
    clip = np.repeat(rng.choice(clips).astype(np.float32) / 32768, 2)
    power = np.convolve(clip**2, np.ones(WINDOW + CONTEXT), "valid")
    start = int(power.argmax())
    return clip[start : start + WINDOW + CONTEXT] + 0.3 * _noise(rng)


def _noise(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 10 ** rng.uniform(-3, -1.5), WINDOW + CONTEXT)


if __name__ == "__main__":
    main(sys.argv[1])
