"""The spoken digit's boxes in every form, and a picture with its annotations made by hand."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edgemm.contracts import card_file as cards
from tests.places import PACKS

TOOL = PACKS.parent / "tools" / "make_spoken_box.py"


@pytest.fixture(scope="session")
def spoken_box(shared):
    """The set of ``make_spoken_box.py``, 12 + 6 + 6 rows, as a manifest, COCO, YOLO and VOC."""
    if not TOOL.is_file() or not (PACKS / "avdigits").is_dir():
        pytest.skip(f"the packed dataset 'avdigits' and {TOOL.name} are not beside {PACKS} (set EDGEMM_DATA)")

    def make(folder):
        command = [sys.executable, TOOL, folder, "--rows", "12", "6", "6", "--forms", "coco", "yolo", "voc"]
        subprocess.run(command, check=True, capture_output=True)

    return shared("annotated-spoken-box", make)


@pytest.fixture
def card():
    """``card(**inputs)``: a card of a picture with boxes in it, and what else it reads."""

    def make(labels=None, **inputs):
        options = {"task": "detection", "frame": "image"} | ({"labels": labels} if labels else {})
        image = {"modality": "image", "height": 32, "width": 48}
        return cards.parse({"factory": "own:build", "inputs": {"image": image, **inputs}, "outputs": {"objects": options}})

    return make


@pytest.fixture
def picture():
    """``picture(path, width, height)``: writes a picture, turned by its EXIF where ``turn`` says so."""

    def write(path, width=48, height=32, turn=1):
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path, exif=exif)
        return path

    return write


@pytest.fixture
def coco(tmp_path, picture):
    """``coco(images, annotations)``: a folder with a COCO file of these and the pictures it names; returns the file."""

    def write(images, annotations, name="instances_train.json", categories=({"id": 7, "name": "traffic light"}, {"id": 90, "name": "cat"})):
        for image in images:
            if "file_name" in image and not (tmp_path / image["file_name"]).exists():
                picture(tmp_path / image["file_name"])
        records = [{"width": 48, "height": 32, **image} for image in images]
        (tmp_path / name).write_text(json.dumps({"images": records, "annotations": annotations, "categories": list(categories)}))
        return tmp_path / name

    return write
