"""Good inputs of every kind, the smallest there are; each is a folder that its entry reads. Mutations start here."""

import csv
import json
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

from edgemm.box.bundle import golden
from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.packing import SUFFIX, TargetOptions, copy, pack
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.report import Report
from edgemm.contracts.target import Target
from edgemm.graph import files
from edgemm.graph.split import split

IMAGE = {"modality": "image", "height": 8, "width": 8, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
AUDIO = {"modality": "audio", "rate_hz": 1000, "seconds": 0.1, "features": {"log_mel": {"mels": 4, "window_ms": 32, "hop_ms": 16}}}
EVENT = {"task": "classification", "labels": ["quiet", "glass"]}
SMALL = """
from torch import nn


class Small(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.ear, self.hand = nn.Linear(6, 4), nn.Linear(3, 4)
        self.answer = nn.Linear(8, classes)

    def forward(self, imu, climate):
        import torch

        return self.answer(torch.cat([self.ear(imu.flatten(1)).relu(), self.hand(climate).relu()], 1))


def build(classes):
    return Small(classes)
"""
CARDS: Mapping[str, Mapping[str, Any]] = {
    "composed": {
        "factory": "models:text-audio-image-multitask",
        "kwargs": {
            "encoders": {
                "image": {"cnn": {"channels": [4, 4], "width": 8}}, "audio": {"cnn": {"channels": [4], "width": 8}},
                "text": {"bag": {"width": 8}}, "imu": {"mlp": {"hidden": [4], "width": 8}},
            },
            "fusion": {"concat": {"width": 8}},
        },
        "inputs": {
            "image": IMAGE, "audio": AUDIO, "text": {"modality": "text", "tokenizer": "tokenizer.json", "length": 4, "optional": True},
            "imu": {"modality": "sensor", "shape": [2, 3], "rate_hz": 10},
        },
        "outputs": {
            "event": EVENT, "faults": {"task": "multilabel", "labels": ["belt", "wear"]}, "level": {"task": "regression", "unit": "dB"},
        },
        "columns": {"photo": "image", "what": "event"},
    },
    "steps": {
        "factory": "models:image-audio-gated",
        "kwargs": {
            "encoders": {"image": {"depthwise_cnn": {"channels": [4], "width": 4}}, "audio": {"conv_gru": {"channels": [4], "hidden": 4}}},
            "fusion": {"gated": {"gate": "vector", "width": 4}},
        },
        "inputs": {"image": {**IMAGE, "steps": 2}, "audio": {**AUDIO, "steps": 2, "features": {"mfcc": {"coefs": 3}}}},
        "outputs": {"event": {**EVENT, "per_step": True}},
    },
    "towers": {
        "factory": "models:image-text-two-tower",
        "kwargs": {
            "encoders": {
                "image": {"vit": {"patch": 4, "embedding": 4, "layers": 1, "heads": 2, "width": 4}},
                "text": {"transformer": {"embedding": 4, "layers": 1, "heads": 2, "width": 4}},
            },
            "heads": {"embedding": {"embedding": {"size": 4}}},
        },
        "inputs": {"image": IMAGE, "text": {"modality": "text", "vocab": 8, "length": 4, "mask": True}},
        "outputs": {"seen": {"task": "embedding", "pair": "said"}, "said": {"task": "embedding", "pair": "seen"}},
    },
    "own": {
        "factory": "small:build", "kwargs": {"classes": 2}, "weights": "weights.safetensors",
        "inputs": {
            "imu": {"modality": "sensor", "shape": [2, 3], "rate_hz": 10, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
            "climate": {"modality": "sensor", "shape": [3]},
        },
        "outputs": {"event": EVENT},
    },
    "onnx": {
        "model": "model.onnx",
        "inputs": {
            "x": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 4]},
            "h": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 4], "state": "hn"},
            "rate": {"modality": "tensor", "dtype": "int64", "shape": [], "value": 16000},
        },
        "outputs": {"y": {"task": "tensor"}, "hn": {"task": "tensor"}},
    },
}  # fmt: skip
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "all": {
        "steps": [
            {"prune": {"branches": {"image": 0.5, "head": 0.1}, "criterion": "taylor"}},
            {"distill": {"features": {"audio": 1.0}, "epochs": 1, "temperature": 2.0}},
            {"qat": {"epochs": 1}},
            {"quantize": {"method": "ptq", "calibration_samples": 2, "precision": {"image": "fp32", "default": "int8"}}},
        ],
        "targets": {"onnxruntime": {"threads": 1}, "openvino": {"device": "CPU"}, "tensorrt": {}},
        "budgets": {"accuracy_drop_points": {"event": 1.0, "level": 2}, "latency_p50_ms": 5, "size_mib": 10.5},
    },
    "short": {
        "steps": [{"prune": {"ratio": 0.5}}, "distill", {"quantize": {"precision": "auto", "on_miss": "qat"}}],
        "targets": ["onnxruntime"], "budgets": {"accuracy_drop_points": 1.0},
    },
}  # fmt: skip
RUN = {
    "name": "porch", "target": "onnxruntime", "decide_hz": 5, "whole": False,
    "inputs": {"x": {"rate_hz": 2.0, "stale_s": 3.0, "precision": "int8"}, "h": {"value": [0.0, 0.0, 0.0, 0.5]}},
    "sources": [{"folder": {"path": "clips", "inputs": ["x"], "seconds": 0.5, "loop": False}}],
    "sinks": [{"console": {}}, {"jsonl": {"path": "events.jsonl"}}],
    "decisions": {"y": {
        "threshold": 0.5, "release": 0.4, "debounce": 1, "cool_down_s": 0.0, "quiet": ["quiet"], "classes": {"glass": {"threshold": 0.9}},
    }},
    "web": {"port": 8099, "bind": "127.0.0.1", "pictures_hz": 1.0},
    "drift": {"window": 4, "limit": 3.0, "save": "kept", "save_mib": 1.0},
}  # fmt: skip
ROWS = [
    {"split": split, "photo": f"{n % 2}.png", "audio": "0.wav", "text": "a dog barks", "imu": "0 1 2 3 4 5" if n % 2 else "imu.npy",
     "what": ["quiet", "glass"][n % 2], "faults": ["belt|wear", ""][n % 2], "level": n / 2, "note": "x, y"}
    for n, split in enumerate(["train"] * 4 + ["val", "test", "test", "calib", "calib"])
]  # fmt: skip
TABLE = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]


def write(folder: Path) -> None:
    """Everything below ``folder``: one folder for each kind of input."""
    for name, card in CARDS.items():
        _beside_a_card(folder / "card" / name)
        (folder / "card" / name / "model.yaml").write_text(as_yaml(card))
    for name, recipe in RECIPES.items():
        _beside_a_card(folder / "recipe" / name)
        (folder / "recipe" / name / "model.yaml").write_text(as_yaml(CARDS["composed"]))
        (folder / "recipe" / name / "recipe.yaml").write_text(as_yaml(recipe))
        (folder / "recipe" / name / "manifest.csv").write_bytes(as_csv(TABLE))
    for name, content in {"csv": as_csv(TABLE), "jsonl": as_lines(ROWS)}.items():
        _beside_a_card(folder / "manifest" / name)
        (folder / "manifest" / name / "model.yaml").write_text(as_yaml(CARDS["composed"]))
        (folder / "manifest" / name / f"manifest.{name}").write_bytes(content)
    _bundle(folder / "bundle" / "folder")
    (folder / "bundle" / "zip").mkdir()
    copy(folder / "bundle" / "folder" / "bundle", folder / "bundle" / "zip" / f"bundle{SUFFIX}")
    _bundle(folder / "run" / "folder")
    (folder / "run" / "folder" / "run.yaml").write_text(as_yaml(RUN))
    (folder / "run" / "folder" / "clips").mkdir()
    np.save(folder / "run" / "folder" / "clips" / "0.npy", np.ones(4, np.float32))
    for name, model in {"fused": fused(), "conv": conv()}.items():
        (folder / "onnx" / name).mkdir(parents=True)
        files.save(model, folder / "onnx" / name / "model.onnx")


def as_yaml(plain: Any) -> str:
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=10**6)


def as_csv(rows: Any) -> bytes:
    """A table as CSV; a row that is no list stands there as it is."""
    lines = [[f'"{cell}"' if "," in str(cell) else str(cell) for cell in row] if isinstance(row, list) else [str(row)] for row in rows]
    return "".join(",".join(line) + "\n" for line in lines).encode()


def as_lines(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def fused() -> onnx.ModelProto:
    """Two inputs, a state that is fed back and a constant: y = softmax-like scores of x and h, hn = h + x."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "wx", "bx"], ["a"], "see", transB=1),
        helper.make_node("Relu", ["a"], ["seen"], "see_relu"),
        helper.make_node("MatMul", ["h", "wh"], ["b"], "keep"),
        helper.make_node("Concat", ["seen", "b"], ["both"], "join", axis=1),
        helper.make_node("MatMul", ["both", "wy"], ["scores"], "decide"),
        helper.make_node("Reshape", ["scores", "size"], ["y"], "shape"),
        helper.make_node("Add", ["h", "x"], ["hn"], "state"),
    ]
    shapes = {"wx": (4, 4), "bx": (4,), "wh": (4, 4), "wy": (8, 2)}
    weights = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()]
    rows = {"x": 4, "h": 4, "y": 2, "hn": 4}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in rows.items()}
    values["rate"] = helper.make_tensor_value_info("rate", TensorProto.INT64, [])
    return _model(nodes, values, ["x", "h", "rate"], ["y", "hn"], [*weights, numpy_helper.from_array(np.array([-1, 2]), "size")])


def conv() -> onnx.ModelProto:
    """A picture and numbers: convolution, normalisation, pooling, attention-free fusion."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "g", "o", "m", "v"], ["n"], "norm", epsilon=1e-5),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat", axis=1),
        helper.make_node("Gather", ["table", "ids"], ["e"], "embed", axis=0),
        helper.make_node("ReduceMean", ["e", "axes"], ["t"], "mean", keepdims=0),
        helper.make_node("Concat", ["f", "t"], ["both"], "join", axis=1),
        helper.make_node("Gemm", ["both", "w", "b"], ["y"], "decide"),
    ]
    shapes = {"k": (4, 3, 3, 3), "g": (4,), "o": (4,), "m": (4,), "v": (4,), "table": (8, 4), "w": (8, 2), "b": (2,)}
    weights = [numpy_helper.from_array(np.abs(rng.normal(size=shape)).astype(np.float32), name) for name, shape in shapes.items()]
    values = {
        "image": helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8]),
        "ids": helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 4]),
        "y": helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
    }
    return _model(nodes, values, ["image", "ids"], ["y"], [*weights, numpy_helper.from_array(np.array([1]), "axes")])


def _model(nodes: Any, values: Any, inputs: list[str], outputs: list[str], weights: Any) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [values[name] for name in inputs], [values[name] for name in outputs], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _beside_a_card(folder: Path) -> None:
    """Whatever a card or a manifest names."""
    folder.mkdir(parents=True)
    (folder / "small.py").write_text(SMALL)
    sizes = {"ear": (4, 6), "hand": (4, 3), "answer": (2, 8)}
    state = {
        f"{name}.{part}": np.ones(size if part == "weight" else size[:1]) for name, size in sizes.items() for part in ("weight", "bias")
    }
    import torch

    save_file({name: torch.from_numpy(array).float() for name, array in state.items()}, folder / "weights.safetensors")
    files.save(fused(), folder / "model.onnx")
    words = {"<pad>": 0, "<unk>": 1, "a": 2, "dog": 3, "barks": 4}
    plain = {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
        "pre_tokenizer": {"type": "Whitespace"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(plain))
    for number in range(2):
        Image.fromarray(np.full((8, 8, 3), 100 * number, np.uint8)).save(folder / f"{number}.png")
    with wave.open(str(folder / "0.wav"), "wb") as file:
        file.setparams((1, 2, 1000, 0, "NONE", ""))
        file.writeframes(b"\0\1" * 100)
    np.save(folder / "imu.npy", np.arange(6, dtype=np.float32).reshape(2, 3))


def _bundle(folder: Path) -> None:
    """A bundle of ``fused`` for ONNX Runtime, with parts, stand-ins and golden samples."""
    folder.mkdir(parents=True)
    inputs = {name: {"modality": "sensor", "shape": [4], "rate_hz": 10} for name in ("x", "h")}
    outputs = {"y": {"task": "classification", "labels": ["quiet", "glass"]}, "hn": {"task": "tensor"}}
    card = cards.parse({"model": "model.onnx", "inputs": inputs, "outputs": outputs}, path=folder / "model.yaml")
    model = fused()
    del model.graph.input[2]
    model = onnx.shape_inference.infer_shapes(model)
    parts = split(model, card)
    named = {"rest": parts.rest, **parts.branches}
    record = {"branches": {name: f"{name}.onnx" for name in parts.branches}, "rest": "rest.onnx", "cuts": parts.cuts, "macs": 1}
    content: dict[str, Path | bytes] = {
        "model.onnx": model.SerializeToString(),
        "targets/onnxruntime/model.onnx": model.SerializeToString(),
    }
    for place in ("split", "targets/onnxruntime/split"):
        content |= {f"{place}/{name}.onnx": graph.SerializeToString() for name, graph in named.items()}
        content[f"{place}/split.json"] = json.dumps(record).encode()
    np.savez(folder / "standins.npz", **{cut: np.full((1, 4), 0.5, np.float32) for name in parts.cuts for cut in parts.cuts[name]})
    content["standins.npz"] = folder / "standins.npz"
    rng = np.random.default_rng(0)
    samples = Golden({name: rng.normal(size=(2, 1, 4)).astype(np.float32) for name in inputs})
    path = files.save(model, folder / "aside.onnx")
    with plugins.load(Target, "onnxruntime").open(path) as session:
        answers = golden.run(session, samples)
    path.unlink()
    row = {
        "name": "accuracy",
        "output": "y",
        "modalities": ["x"],
        "value": 0.9,
        "unit": "ratio",
        "better": "higher",
        "target": "onnxruntime",
    }
    pack(
        folder / "bundle", card=card, files=content, report=Report({"device": "a box"}),
        golden=Golden(samples.inputs, {"onnxruntime": answers}, {"onnxruntime": dict.fromkeys(outputs, 1e-3)}),
        provenance={"recipe": "by hand"}, accuracy={}, options={"onnxruntime": TargetOptions({"threads": 1}, safe={"threads": 1})},
        subsets=[{**row, "low": None, "high": None, "n": 100, "precision_ran": "f32"}],
    )  # fmt: skip
    (folder / "standins.npz").unlink()


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def read_csv(path: Path) -> list[list[Any]]:
    return list(map(list, csv.reader(path.read_text(encoding="utf-8", errors="replace").replace("\0", "").splitlines())))


def read_lines(path: Path) -> Any:
    """The rows of JSON lines; lines that are none as text."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            rows.append(line)
    return rows


def read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception:  # an earlier change left none
        return {}


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez(path, **arrays)
