"""Two face finders that came as ONNX files, in INT8: how far their boxes agree with their own float boxes, as mAP50-95.

Launch: python benchmarks/face_finders.py MODELS MEDIA [RECIPE ...]
(MODELS: folder of face_yunet_n_320.onnx and face_rfb_320.onnx; MEDIA: folder of clips and of photo_person_astronaut.png)

Pictures are frames of the clips, most of them with that photograph's face on them, cut out, mirrored, scaled and lit at random; the truth
are the boxes that the float model itself finds above 0.2. It tells broken from right, not one percent from another.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
from _process import EDGEMM, run
from _results import save
from PIL import Image

from edgemm.contracts import card_file, frontend_ops
from edgemm.contracts.modality import modalities
from edgemm.contracts.task import tasks

CARDS = Path(__file__).parent / "faces"
RECIPES = ("openvino-int8", "onnxruntime-int8")
ROWS = {"train": 100, "val": 60, "test": 120}
BARE = 0.2  # share of pictures without a face on them
SURE = 0.2  # float boxes above count
FACE = (170, 40, 290, 190)  # of the photograph, in its pixels, with some hair
EVERY_S = 0.9  # between two frames of a clip


def main(models: str, media: str, *recipes: str) -> None:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        frames = [frame for clip in sorted(Path(media).glob("c*.mp4")) for frame in frames_of(clip)]
        photograph = Image.open(Path(media) / "photo_person_astronaut.png").convert("RGB")
        for path in sorted(CARDS.glob("*.yaml")):
            folder = Path(scratch) / path.stem
            folder.mkdir()
            card = card_file.load(shutil.copy(path, folder / "model.yaml"))
            shutil.copy(Path(models) / str(card.model), folder)
            boxes = write(folder, frames, photograph)
            for recipe in recipes or RECIPES:
                command = [*EDGEMM, "compress", folder / "model.yaml", "-r", recipe, "-d", f"coco:{folder}", "-o", folder / recipe]
                run(command, allowed=(0, 3))
                report = json.loads((folder / recipe / "report.json").read_text(encoding="utf-8"))
                figures[f"{path.stem} {recipe}"] = {"boxes": boxes, **agreement(report)}
                print(path.stem, recipe, figures[f"{path.stem} {recipe}"], flush=True)
    save("face finders", figures, beside=bool(recipes))


def frames_of(clip: Path) -> Iterator[Image.Image]:
    with av.open(str(clip)) as container:
        due = 0.0
        for frame in container.decode(container.streams.video[0]):
            if frame.time is not None and frame.time >= due:
                yield frame.to_image()
                due = frame.time + EVERY_S


def write(folder: Path, frames: list[Image.Image], photograph: Image.Image) -> dict[str, int]:
    """A COCO file a split beside its pictures, with the boxes of the float model in ``folder``; returns how many there are in each."""
    card, rng = card_file.load(folder / "model.yaml"), np.random.default_rng(0)
    part, task = modalities(card)["input"], tasks(card)["faces"]
    session = onnxruntime.InferenceSession(str(card.model_path), providers=["CPUExecutionProvider"])
    high, wide, _ = part.shape()
    counts = {}
    for split, rows in ROWS.items():
        images, annotations = [], []
        for number in range(rows):
            name = f"{split}_{number:03}.png"
            composed(frames, photograph, (int(wide), int(high)), rng).save(folder / name)
            images.append({"id": number + 1, "file_name": name, "width": wide, "height": high})
            (fed,) = frontend_ops.run(part.frontend(), part.decode(name, folder)[None], steps=None)
            answers = dict(zip([value.name for value in session.get_outputs()], session.run(None, {"input": fed}), strict=True))
            for _, score, x0, y0, x1, y1 in task.detections(answers)[0].tolist():
                if score > SURE:
                    record = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                    annotations.append(record)
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
        (folder / f"instances_{split}.json").write_text(json.dumps(content))
        counts[split] = len(annotations)
    return counts


def composed(frames: list[Image.Image], photograph: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    picture = frames[rng.integers(len(frames))].resize(size)
    if rng.random() < BARE:
        return picture
    left, top, right, bottom = FACE
    margin = [int(rng.integers(0, 40)) for _ in range(4)]
    face = photograph.crop((left - margin[0], top - margin[1], right + margin[2], bottom + margin[3]))
    face = face.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else face
    height = int(rng.integers(size[1] // 8, size[1] * 3 // 4))
    light = float(rng.uniform(0.6, 1.3))
    face = face.resize((max(8, height * face.width // face.height), height)).point(lambda value: value * light)
    picture.paste(face, (int(rng.integers(0, max(1, size[0] - face.width))), int(rng.integers(0, max(1, size[1] - face.height)))))
    return picture


def agreement(report: dict[str, Any]) -> dict[str, Any]:
    rows = [row for row in report["measurements"] if not row.get("modalities") and not row.get("branch")]
    found = {name: [row for row in rows if row["name"] == name] for name in ("map", "latency_p50_ms", "size_mib")}
    return {
        name: {f"{row['subject']} {row['target']}": [row["value"], row.get("low"), row.get("high")] for row in kept}
        for name, kept in found.items()
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
