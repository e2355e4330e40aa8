"""A damaged file of annotations is an error that a user can mend, or rows; never a traceback."""

import random

import pytest

from edgemm.data.dataset import open_dataset
from edgemm.errors import EdgemmError

PIECES = (
    b"-1",
    b"NaN",
    b"1e400",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"9" * 400,
    b"\x00",
    b"\xff",
    b";",
    b"\n",
    b"'",
    b"<a>",
    b":",
    b"../..",
    b"",
)
OBJECT = "<object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>"


@pytest.fixture
def sets(tmp_path, coco, picture):
    """Form -> the set as ``-d`` takes it, and its files."""
    path = coco(
        [{"id": number, "file_name": f"images/train/{number}.png"} for number in (1, 2, 3)],
        [
            {"id": 1, "image_id": 1, "category_id": 90, "bbox": [4, 6, 10.5, 8]},
            {"id": 2, "image_id": 3, "category_id": 7, "bbox": [0, 0, 48, 32]},
        ],
    )
    picture(tmp_path / "images/val/4.png")
    for split, names in {"train": "123", "val": "4"}.items():
        for folder in (f"labels/{split}", "Annotations", "ImageSets/Main"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text("\n".join(names))
        for name in names:
            picture(tmp_path / f"JPEGImages/{name}.png")
            (tmp_path / f"labels/{split}/{name}.txt").write_text("0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.9 0.1 0.9 0.9\n")
            (tmp_path / f"Annotations/{name}.xml").write_text(f"<annotation><filename>{name}.png</filename>{OBJECT}</annotation>")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    texts = [tmp_path / "data.yaml", *sorted(tmp_path.glob("labels/*/*.txt"))]
    xml = [*sorted(tmp_path.glob("Annotations/*.xml")), *sorted(tmp_path.glob("ImageSets/Main/*.txt"))]
    return {"coco": (f"coco:{path}", [path]), "yolo": (f"yolo:{tmp_path}", texts), "voc": (f"voc:{tmp_path}", xml)}


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_damaged_files_are_read_or_refused(form, sets, card):
    data, files = sets[form]
    rng, refused = random.Random(form), 0
    for _ in range(40):
        path = rng.choice(files)
        whole = path.read_bytes()
        begin = rng.randrange(len(whole) + 1)
        path.write_bytes(whole[:begin] + rng.choice(PIECES) + whole[begin + rng.choice([0, 1, 3, 10]) :])
        for skip in (False, True):
            try:
                dataset = open_dataset(data, card(), skip_bad_rows=skip)
                assert sum(dataset.count(split) for split in dataset.splits()) > 0
            except EdgemmError:
                refused += 1
        path.write_bytes(whole)
    assert refused > 5
    assert open_dataset(data, card()).count("train") > 0
