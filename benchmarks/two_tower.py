"""A two-tower ViT-B/32 + 12-layer text transformer (151 M parameters, random weights): time and memory of the way, speed of the result.

Launch: python benchmarks/two_tower.py [FOLDER]    (FOLDER: where to work; else a temporary one. Needs 3 GB there.)
Random weights say nothing about accuracy; speed, time and memory are those of the trained model.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from _process import EDGEMM, run
from _results import save

SAMPLES, TEST = 64, 8
VISION = (
    "{model_type: clip_vision_model, hidden_size: 768, intermediate_size: 3072, num_hidden_layers: 12, num_attention_heads: 12, "
    "patch_size: 32, image_size: 224}"
)
TEXT = (
    "{model_type: clip_text_model, vocab_size: 49408, hidden_size: 512, intermediate_size: 2048, num_hidden_layers: 12, "
    "num_attention_heads: 8, max_position_embeddings: 77}"
)
CARD = f"""
factory: models:image-text-two-tower
kwargs:
  encoders:
    image: {{hf_vision: {{config: {VISION}, width: 512, pool: pooler}}}}
    text: {{hf_text: {{config: {TEXT}, width: 512, pool: pooler}}}}
  heads: {{embedding: {{embedding: {{size: 512}}}}}}
inputs:
  image: {{modality: image, height: 224, width: 224, channels: 3, mean: [0.481, 0.458, 0.408], std: [0.269, 0.261, 0.276]}}
  text: {{modality: text, vocab: 49408, length: 77}}
outputs:
  image_vector: {{task: embedding, pair: text_vector}}
  text_vector: {{task: embedding, pair: image_vector}}
"""
RECIPE = f"steps: [{{quantize: {{method: ptq, calibration_samples: {SAMPLES}}}}}]\ntargets: {{openvino: {{}}}}\nbudgets: {{}}\n"
MAKE_WEIGHTS = """
import sys
from pathlib import Path
import torch
from edgemm.contracts import card_file; from edgemm.workshop.models.checkpoint import loading as checkpoint
from edgemm.workshop.models.checkpoint.loading import save_model
torch.manual_seed(0)
model = checkpoint.load_model(card_file.load(sys.argv[1]), weights=False)
print(sum(value.numel() for value in model.parameters()))
save_model(model, Path(sys.argv[2]))
"""


def main(place: Path) -> None:
    (place / "card.yaml").write_text(CARD)
    (place / "recipe.yaml").write_text(RECIPE)
    parameters = int(run([sys.executable, "-c", MAKE_WEIGHTS, place / "card.yaml", place / "model"]).output.split()[0])
    rng = np.random.default_rng(0)
    (place / "data").mkdir(exist_ok=True)
    for split, count in (("train", SAMPLES), ("val", TEST), ("test", TEST)):
        text = rng.integers(1, 49000, (count, 77))
        text[:, -1] = 49407  # CLIP's end of text: the place its pooler reads
        np.savez(place / "data" / f"{split}.npz", image=rng.integers(0, 256, (count, 224, 224, 3), np.uint8), text=text)
    shutil.rmtree(place / "cache", ignore_errors=True)
    environment = {**os.environ, "EDGEMM_CACHE": str(place / "cache")}
    command = [*EDGEMM, "compress", place / "model", "-r", place / "recipe.yaml", "-d", place / "data", "-o", place / "bundle"]
    cost = run(command, environment=environment)
    report = json.loads((place / "bundle" / "report.json").read_text())
    seconds = {step["name"]: step["seconds"] for step in report["details"]["steps"]}
    figures = {
        "parameters": parameters,
        "export_quantize_compile_s": sum(value for name, value in seconds.items() if name.split()[0] in ("export", "quantize", "tune")),
        "stages_s": seconds,
        "whole_compress_s": cost.seconds,
        "peak_rss_mib_of_the_largest_process": cost.peak_rss_mib,
        "latency_p50_ms": {m["candidate"]: m["value"] for m in report["measurements"] if m["name"] == "latency_p50_ms"},
        "ran": {m["candidate"]: m["precision_ran"] for m in report["measurements"] if m["name"] == "latency_p50_ms"},
        "ratios": report["details"]["ratios"],
        "size_mib": {m["candidate"]: m["value"] for m in report["measurements"] if m["name"] == "size_mib"},
    }
    save("two_tower", figures)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
