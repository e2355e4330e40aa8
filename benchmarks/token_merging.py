"""A random ViT-B/32 that sees, in INT8, with tokens merged in several ways: p50 of a picture in turns, and how many times as fast.

Launch: python benchmarks/token_merging.py FOLDER     (a quiet machine; graphs are made in FOLDER once, some minutes)
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from _results import save

from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.step import Context
from edgemm.contracts.target import Target
from edgemm.data.dataset import synthetic
from edgemm.graph import files
from edgemm.graph.branches import find_branches

ALONE = "alone"
FORMS: dict[str, dict[str, Any] | None] = {
    ALONE: None,
    "4 a layer": {"tokens_per_layer": 4},
    "8 a layer, 18 left": {"tokens_per_layer": 8, "leave": 18},
    "12 a layer, 14 left": {"tokens_per_layer": 12, "leave": 14},
    "16 a layer, 12 left": {"tokens_per_layer": 16, "leave": 12},
}
FLOATS, ROUNDS, CALLS, CALIBRATION = ("f32", "bf16"), 40, 3, 4
CARD = """
factory: models:image-only
kwargs:
  encoders: {image: {hf_vision: {config: {model_type: clip_vision_model, hidden_size: 768, intermediate_size: 3072, num_hidden_layers: 12,
    num_attention_heads: 12, image_size: 224, patch_size: 32}, width: 512, pool: pooler}}}
  heads: {embedding: {embedding: {size: null}}}
inputs: {image: {modality: image, height: 224, width: 224, mean: [0.48, 0.46, 0.41], std: [0.27, 0.26, 0.28]}}
outputs: {image_vector: {task: embedding}}
"""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {name: _graph(folder, name, options) for name, options in FORMS.items()}
    rows = {kind: _timed(graphs, kind) for kind in FLOATS}
    save("token_merging", {"threads": 2, "p50_ms": rows, "times_as_fast": {kind: _ratios(row) for kind, row in rows.items()}})


def _ratios(row: dict[str, float]) -> dict[str, float]:
    return {name: round(row[ALONE] / p50, 2) for name, p50 in row.items() if name != ALONE}


def _graph(folder: Path, name: str, options: dict[str, Any] | None) -> Path:
    path = folder / f"{name.replace(' ', '-').replace(',', '')}.onnx"
    if path.is_file():
        return path
    from edgemm.workshop.models.checkpoint.loading import load_model
    from edgemm.workshop.models.onnx_export import export_onnx
    from edgemm.workshop.steps.merge import merge
    from edgemm.workshop.steps.quantize import quantize

    (folder / "model.yaml").write_text(CARD)
    card = cards.load(folder / "model.yaml")
    model = load_model(card, weights=False)
    model = merge(model, _context(card, folder), **options) if options else model
    graph = files.load(export_onnx(model, folder / "float.onnx"))
    context = _context(card, folder, branches=find_branches(graph, card))
    return files.save(quantize(graph, context, calibration_samples=CALIBRATION, ranges="minmax"), path)


def _context(card: Card, folder: Path, **more: Any) -> Context:
    numerics = plugins.load(Target, "openvino").numerics
    return Context(card, synthetic(card, samples=2 * CALIBRATION), scratch=folder / "scratch", target="openvino", numerics=numerics, **more)


def _timed(graphs: dict[str, Path], kind: str) -> dict[str, float]:
    """Median of a call in ms, the graphs in turns."""
    target = plugins.load(Target, "openvino")
    sessions = {name: target.open(path, threads=2, precision=kind) for name, path in graphs.items()}
    feed = {"image": np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)}
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            for _ in range(CALLS):
                begin = time.perf_counter()
                session.run(feed)
                taken[name].append(1000 * (time.perf_counter() - begin))
    for session in sessions.values():
        session.close()
    return {name: round(float(np.median(times[CALLS:])), 2) for name, times in taken.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
