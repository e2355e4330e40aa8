"""The library calls that `edgemm compress` makes for the digits model, and nothing else: what compress_time.py compares with.

Launch: python benchmarks/bare_digits.py RUN DATA. Same number of calibration samples, test rows, timed calls and processes; no cache,
no parity ladder's bookkeeping, no report, no bundle, no checks.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CALLS, ROUNDS, CALIBRATION = 40, 12, 300


def rows(data: Path, split: str, count: int | None = None) -> list[dict[str, np.ndarray]]:
    import soundfile
    from PIL import Image

    found = []
    with (data / "manifest.csv").open() as file:
        for row in csv.DictReader(file):
            if row["split"] != split or (count and len(found) >= count):
                continue
            sound = soundfile.read(data / row["audio"], dtype="float32")[0]
            picture = np.asarray(Image.open(data / row["image"]), np.uint8)[..., None]
            found.append({"image": picture[None], "audio": np.resize(sound, 8000)[None].astype(np.float32)})
    return found


def measure(graph: str, precision: str, threads: int, data: Path, answers: bool) -> None:
    """What one measuring process does: open, time, and answer the test split."""
    samples = rows(data, "test", None if answers else 1)
    if not graph.endswith(".onnx"):
        return measure_torch(Path(graph), samples[0])
    import openvino as ov

    core = ov.Core()
    model = core.read_model(graph)
    sample = samples[0]
    model.reshape({value.get_any_name(): [1, *list(sample[value.get_any_name()].shape[1:])] for value in model.inputs})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    for _ in range(ROUNDS * CALLS):
        request.infer(samples[0])
    for sample in samples if answers else ():
        request.infer(sample)


def measure_torch(run: Path, sample: dict[str, np.ndarray]) -> None:
    import torch

    from edgemm.contracts import card_file
    from edgemm.workshop.models.checkpoint import loading

    model = loading.load_model(card_file.load(run))
    feed = {name: torch.from_numpy(value) for name, value in sample.items()}
    with torch.no_grad():
        for _ in range(ROUNDS * CALLS):
            model(feed)


def main(run: Path, data: Path) -> None:
    import nncf
    import onnx
    import onnxruntime
    import torch

    from edgemm.contracts import card_file
    from edgemm.graph.frontend import prepend
    from edgemm.workshop.models.checkpoint import loading

    class Positional(torch.nn.Module):
        def __init__(self, fused: torch.nn.Module) -> None:
            super().__init__()
            self.fused = fused

        def forward(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.fused.call_module(features).values())

    model = loading.load_model(card_file.load(run))
    example = rows(data, "train", 2)
    batch = {name: torch.from_numpy(np.concatenate([sample[name] for sample in example])) for name in example[0]}
    features = model.features(batch)
    with tempfile.TemporaryDirectory() as scratch:
        dynamic = {0: torch.export.Dim.DYNAMIC}
        shapes = ((dynamic,) * len(features),)
        names = list(model.card.inputs)
        program = torch.onnx.export(
            Positional(model), tuple(features), dynamo=True, opset_version=18, input_names=names,
            output_names=list(model.card.outputs), dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
        graph = prepend(program.model_proto, model.card)
        onnx.save(graph, f"{scratch}/model.onnx")
        reference = onnxruntime.InferenceSession(f"{scratch}/model.onnx")
        for sample in rows(data, "val", 16):
            reference.run(None, sample)
        test = rows(data, "test")
        for start in range(0, len(test), 64):
            part = test[start : start + 64]
            with torch.no_grad():
                model({name: torch.from_numpy(np.concatenate([sample[name] for sample in part])) for name in part[0]})
        scope = nncf.IgnoredScope(names=[node.name for node in graph.graph.node if node.name.startswith("frontend/")], validate=False)
        samples = rows(data, "train", CALIBRATION)
        preset = nncf.QuantizationPreset.PERFORMANCE
        onnx.save(
            nncf.quantize(graph, nncf.Dataset(samples), preset=preset, subset_size=CALIBRATION, ignored_scope=scope), f"{scratch}/int8.onnx"
        )
        tuned = [("int8", precision, threads, False) for precision in ("f32", "bf16") for threads in (1, 2)]
        forms = [("torch", "f32", 2, False), ("model", "f32", 2, True), ("model", "bf16", 2, True), ("int8", "bf16", 1, True)]
        for graph_name, precision, threads, answers in [*tuned, *forms]:
            graph_file = str(run) if graph_name == "torch" else f"{scratch}/{graph_name}.onnx"
            words = [sys.executable, __file__, "measure", graph_file, precision, str(threads), str(data), str(answers)]
            subprocess.run(words, check=True)


if __name__ == "__main__":
    began = time.perf_counter()
    if sys.argv[1] == "measure":
        measure(sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]), sys.argv[6] == "True")
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
        print(f"{time.perf_counter() - began:.1f} s")
