"""A detector written down by hand: of red and of blue it answers with the box around all of it; sound makes it surer. And its clip."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

LABELS = ["red", "blue"]
MODEL = 128, 96  # width and height of the model's picture
RATE_HZ = 16000
CHANNELS = {"red": 0, "blue": 2}
SEEN, HEARD = 0.6, 0.35  # a colour alone scores so much, and so much more at full loudness


def graph():
    """objects (n, 4 + 2, 2): x0 y0 x1 y1 in pixels and two scores, for each colour; nothing seen scores 0."""
    import onnx
    from onnx import TensorProto, helper

    from tests.onnx_models import model as onnx_model

    width, height = MODEL
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["floats"], "see_cast", to=TensorProto.FLOAT),
        node("Abs", ["audio"], ["loud"], "hear_abs"),
        node("ReduceMean", ["loud", "one"], ["heard"], "hear_mean", keepdims=1),
    ]
    for label, channel in CHANNELS.items():
        other = CHANNELS["blue" if label == "red" else "red"]
        nodes += [
            node("Gather", ["floats", f"at{channel}"], [f"{label}_own"], f"see_{label}", axis=3),
            node("Gather", ["floats", f"at{other}"], [f"{label}_other"], f"see_{label}_other", axis=3),
            node("Sub", [f"{label}_own", f"{label}_other"], [f"{label}_more"], f"see_{label}_more"),
            node("Greater", [f"{label}_more", "limit"], [f"{label}_is"], f"see_{label}_is"),
            node("Cast", [f"{label}_is"], [f"{label}_mask"], f"see_{label}_mask", to=TensorProto.FLOAT),
            node("ReduceMax", [f"{label}_mask", "rows"], [f"{label}_across"], f"see_{label}_across", keepdims=0),
            node("ReduceMax", [f"{label}_mask", "columns"], [f"{label}_down"], f"see_{label}_down", keepdims=0),
        ]
        edges = [("x0", "across", 0), ("y0", "down", 0), ("x1", "across", 1), ("y1", "down", 1)]
        for edge, side, last in edges:
            nodes += [
                node(
                    "ArgMax", [f"{label}_{side}"], [f"{label}_{edge}_at"], f"see_{label}_{edge}", axis=1, keepdims=1, select_last_index=last
                ),
                node("Cast", [f"{label}_{edge}_at"], [f"{label}_{edge}_number"], f"see_{label}_{edge}_cast", to=TensorProto.FLOAT),
                node("Add", [f"{label}_{edge}_number", "one_float" if last else "none"], [f"{label}_{edge}"], f"see_{label}_{edge}_edge"),
            ]
        nodes += [
            node("ReduceMax", [f"{label}_across", "one"], [f"{label}_there"], f"see_{label}_there", keepdims=1),
            node("Mul", [f"{label}_there", "seen"], [f"{label}_worth"], f"see_{label}_worth"),
            node("Concat", [f"{label}_{edge}" for edge, _, _ in edges] + [f"{label}_worth"], [f"{label}_row"], f"see_{label}_row", axis=1),
        ]
    nodes += [
        node("Concat", ["red_row", "blue_row"], ["saw"], "see_both", axis=1),
        node("Split", ["saw", "parts"], ["red_box", "red_score", "blue_box", "blue_score"], "join_split", axis=1),
        node("Mul", ["heard", "more"], ["bonus"], "join_more"),
    ]
    for label in LABELS:
        nodes += [
            node("Mul", [f"{label}_score", "bonus"], [f"{label}_bonus"], f"join_{label}_bonus"),
            node("Add", [f"{label}_score", f"{label}_bonus"], [f"{label}_sure"], f"join_{label}_sure"),
            node("Mul", [f"{label}_score", "none"], [f"{label}_nothing"], f"join_{label}_nothing"),
            node(
                "Concat",
                [f"{label}_box", *([f"{label}_sure", f"{label}_nothing"] if label == "red" else [f"{label}_nothing", f"{label}_sure"])],
                [f"{label}_flat"],
                f"join_{label}",
                axis=1,
            ),
            node("Unsqueeze", [f"{label}_flat", "last"], [f"{label}_place"], f"join_{label}_place"),
        ]
    nodes.append(node("Concat", ["red_place", "blue_place"], ["objects"], "join_objects", axis=2))
    inputs = {"image": (TensorProto.UINT8, ["batch", height, width, 3]), "audio": ["batch", RATE_HZ // 2]}
    constants = {
        "at0": np.array(0), "at2": np.array(2), "limit": np.float32(80), "none": np.float32(0), "one_float": np.float32(1),
        "rows": np.array([1]), "columns": np.array([2]), "one": np.array([1]), "last": np.array([2]), "parts": np.array([4, 1, 4, 1]),
        "seen": np.float32(SEEN), "more": np.float32(HEARD / SEEN),
    }  # fmt: skip
    return onnx.shape_inference.infer_shapes(onnx_model(nodes, inputs, {"objects": ["batch", 6, 2]}, constants))


POINTS = ["near", "far"]
AREA = ["ground", "red"]
MARKS = {
    "area": {"task": "segmentation", "labels": AREA, "frame": "image"},
    "pose": {
        "task": "keypoints", "labels": ["red"], "points": POINTS, "frame": "image", "skeleton": [[0, 1]], "layout": "list",
        "scores": "probability",
    },
}  # fmt: skip
"""Outputs of ``marking_graph``."""


def marking_graph():
    """area (n, 2, height, width): what is red; pose (n, 1, 1 + 2 * 3): the upper left and lower right corner of all of it."""
    import onnx
    from onnx import helper

    model, node, (width, height) = graph(), helper.make_node, MODEL
    corners = ["red_x0", "red_y0", "red_there", "red_x1", "red_y1", "red_there"]
    model.graph.node.extend(
        [
            node("Sub", ["one_float", "red_mask"], ["red_not"], "see_ground"),
            node("Unsqueeze", ["red_not", "one"], ["ground_map"], "see_ground_map"),
            node("Unsqueeze", ["red_mask", "one"], ["red_map"], "see_red_map"),
            node("Concat", ["ground_map", "red_map"], ["area"], "see_area", axis=1),
            node("Concat", corners, ["corners"], "see_corners", axis=1),
            node("Concat", ["red_sure", "corners"], ["posed"], "join_pose", axis=1),
            node("Unsqueeze", ["posed", "one"], ["pose"], "join_pose_place"),
        ]
    )
    del model.graph.output[:]
    shapes = {"area": ["batch", 2, height, width], "pose": ["batch", 1, 7]}
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items())
    model.graph.node.remove(next(one for one in model.graph.node if one.output[0] == "objects"))
    return onnx.shape_inference.infer_shapes(model)


def card(folder: Path, *, fit="letterbox", outputs=None):
    from edgemm.contracts import card_file as cards

    width, height = MODEL
    objects = {"task": "detection", "labels": LABELS, "frame": "image", "layout": "yolo", "boxes": {"form": "xyxy", "unit": "pixels"}}
    return cards.parse(
        {
            "model": "model.onnx",
            "inputs": {
                "image": {"modality": "image", "height": height, "width": width, "fit": fit},
                "audio": {"modality": "audio", "rate_hz": RATE_HZ, "seconds": 0.5},
            },
            "outputs": outputs or {"objects": objects},
        },
        path=folder / "model.yaml",
    )


def make_bundle(folder: Path, *, fit="letterbox", thresholds=None, marks=False) -> Path:
    """Pack it in parts; its stand-ins are an empty picture and silence. ``marks``: it answers with points and a mask instead."""
    import json

    from edgemm.box.bundle import golden
    from edgemm.box.bundle.golden import Golden
    from edgemm.box.bundle.packing import TargetOptions, pack
    from edgemm.contracts import plugins
    from edgemm.contracts.report import Report
    from edgemm.contracts.target import Target
    from edgemm.graph import files
    from edgemm.graph.split import split

    folder.mkdir(parents=True, exist_ok=True)
    own, model = card(folder, fit=fit, outputs=MARKS if marks else None), marking_graph() if marks else graph()
    files.save(model, folder / "model.onnx")
    parts = split(model, own)
    for name, part in [*parts.branches.items(), ("rest", parts.rest)]:
        files.save(part, folder / f"{name}.onnx")
    record = {"branches": {name: f"{name}.onnx" for name in parts.branches}, "rest": "rest.onnx", "cuts": parts.cuts, "macs": 0}
    (folder / "split.json").write_text(json.dumps(record))
    cuts = [cut for of_input in parts.cuts.values() for cut in of_input]
    sizes = {one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim][1:] for one in parts.rest.graph.input}
    np.savez(folder / "standins.npz", **{cut: np.zeros((1, *sizes[cut]), np.float32) for cut in cuts})
    content: dict[str, Path | bytes] = {
        "model.onnx": folder / "model.onnx",
        "targets/onnxruntime/model.onnx": folder / "model.onnx",
        "standins.npz": folder / "standins.npz",
    }
    for place in ("split", "targets/onnxruntime/split"):
        content |= {f"{place}/{name}": folder / name for name in ("split.json", "rest.onnx", "image.onnx", "audio.onnx")}
    rng, (width, height) = np.random.default_rng(0), MODEL
    inputs = {
        "image": np.stack([draw([("red", 10 + 5 * n, 20, 20, 30)], (width, height))[None] for n in range(8)]),
        "audio": np.stack([rng.normal(0, loud, (1, RATE_HZ // 2)) for loud in np.geomspace(0.005, 0.5, 8)]).astype(np.float32),
    }
    with plugins.load(Target, "onnxruntime").open(folder / "model.onnx") as session:
        outputs = golden.run(session, Golden(inputs))
    allowed = golden.tolerance(outputs, outputs, "f32+bf16")
    return pack(
        folder / "bundle",
        card=own,
        files=content,
        report=Report({"device": "a box"}),
        golden=Golden(inputs, {"onnxruntime": outputs}, {"onnxruntime": allowed}),
        provenance={"recipe": "by hand"},
        accuracy={},
        options={"onnxruntime": TargetOptions({})},
        subsets=[],
        thresholds={"onnxruntime": {"objects": thresholds}} if thresholds else {},
    )


Things = Callable[[float], list[tuple[str, float, float, float, float]]]
"""Seconds -> label, x0, y0, width, height of everything there, in pixels."""


def draw(things, size) -> np.ndarray:
    """A dim picture with these things on it: uint8 (height, width, 3)."""
    width, height = size
    picture = np.full((height, width, 3), 60, np.uint8)
    for label, x, y, wide, high in things:
        x0, y0, x1, y1 = (round(value) for value in (x, y, x + wide, y + high))
        picture[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = (230, 30, 30) if label == "red" else (30, 30, 230)
    return picture


def write_clip(path: Path, things: Things, *, seconds: float, size=(640, 360), fps=15, loud=0.5) -> Path:
    """A clip of what ``things`` says, with a buzz: H.264 and AAC in MP4."""
    import av

    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(fps), "crf": "16"}
        audio = file.add_stream("aac", rate=RATE_HZ, layout="mono")
        for number in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(draw(things(number / fps), size), format="rgb24")
            frame.pts = number
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        wave = (np.sign(np.sin(np.arange(round(seconds * RATE_HZ)) / 5)) * loud).astype(np.float32)
        for start in range(0, len(wave), 1024):
            piece = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            piece.sample_rate, piece.pts = RATE_HZ, start
            file.mux(audio.encode(piece))
        file.mux(audio.encode(None))
    return path


def crossing(t: float) -> list[tuple[str, float, float, float, float]]:
    """A red thing goes from left to right through the middle in eight seconds; a blue one stands at the right for five of them."""
    things = [("red", 20 + 60 * t, 120, 60, 120)]
    return things + ([("blue", 520, 40, 60, 60)] if 2 <= t < 7 else [])
