"""Other inputs of a set of pictures: a manifest beside it, and a folder for each, joined by the pictures' names."""

import pytest

from edgemm.contracts import card_file as cards
from edgemm.data.dataset import open_dataset
from edgemm.errors import DataError

CAT = {"id": 1, "image_id": 1, "category_id": 90, "bbox": [4, 6, 10, 8]}
IMAGES = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
THERMAL = {"modality": "image", "height": 16, "width": 16, "channels": 1}
WORD = {"modality": "sensor", "shape": [1]}


def rows(data, card):
    dataset = open_dataset(data, card)
    every = sorted((row for split in dataset.splits() for row in dataset.source.rows(split)), key=lambda row: row.number)
    return [dict(row.cells) for row in every]


def by_image(data, card):
    return {row["image"]: row for row in rows(data, card)}


def test_a_folder_called_as_an_input_brings_the_files_of_the_same_names(coco, card, picture, tmp_path):
    for name in "ab":
        picture(tmp_path / f"thermal/{name}.jpg", 20, 20)
    found = by_image(f"coco:{coco(IMAGES, [CAT])}", card(thermal=THERMAL))
    assert {name: row["thermal"] for name, row in found.items()} == {"a.png": "thermal/a.jpg", "b.png": "thermal/b.jpg"}


def test_a_manifest_beside_needs_no_split_and_its_paths_are_its_own(coco, card, picture, tmp_path):
    sub = tmp_path / "set"
    sub.mkdir()
    picture(tmp_path / "deep/heat.png", 20, 20)
    (tmp_path / "manifest.csv").write_text("image,thermal,gas\nset/a.png,deep/heat.png,1.5\nset/b.png,deep/heat.png,2\nset/other.png,,\n")
    path = coco([{**image, "file_name": f"set/{image['file_name']}"} for image in IMAGES], [CAT])
    moved = path.rename(sub / path.name)
    found = rows(f"coco:{moved}", card(thermal=THERMAL, gas=WORD))
    assert [row["gas"] for row in found] == ["1.5", "2"]
    assert {row["thermal"] for row in found} == {"../deep/heat.png"}


def test_of_rows_with_one_stem_that_of_the_whole_name_or_the_split_counts(coco, card, picture, tmp_path):
    (tmp_path / "manifest.csv").write_text("split,image,gas\ntrain,x/a.png,1\ntrain,y/a.png,2\nval,b.png,3\ntrain,b.png,4\n")
    found = rows(f"coco:{coco([{'id': 1, 'file_name': 'y/a.png'}, {'id': 2, 'file_name': 'b.png'}], [])}", card(gas=WORD))
    assert [row["gas"] for row in found if row["image"] == "y/a.png"] == ["2"]
    assert {row["gas"] for row in found if row["image"] == "b.png"} <= {"4", "3"}
    (tmp_path / "manifest.csv").write_text("image,gas\na.png,1\na.png,2\nb.png,3\n")
    with pytest.raises(DataError, match="pictures with several rows beside them: 1"):
        rows(f"coco:{coco(IMAGES, [])}", card(gas=WORD))


def test_an_input_that_nothing_brings_is_named_with_the_ways_to_bring_it(coco, card, tmp_path):
    path = coco(IMAGES, [CAT])
    with pytest.raises(DataError, match="pictures without 'gas': 2") as caught:
        rows(f"coco:{path}", card(gas=WORD))
    assert "manifest.csv" in caught.value.fix
    assert "inputs.gas.optional: true" in caught.value.fix
    assert len(rows(f"coco:{path}", card(gas={**WORD, "optional": True}))) == 2
    (tmp_path / "manifest.csv").write_text("photo,gas\na.png,1\n")
    with pytest.raises(DataError, match="no column names the pictures"):
        rows(f"coco:{path}", card(gas=WORD))


def test_columns_are_called_as_the_card_reads_them(coco, tmp_path):
    plain = {
        "factory": "own:build",
        "inputs": {"rgb": {"modality": "image", "height": 32, "width": 48}, "heat": {**THERMAL, "optional": True}},
        "outputs": {"found": {"task": "detection", "frame": "rgb"}},
        "columns": {"photo": "rgb"},
    }
    row = rows(f"coco:{coco(IMAGES[:1], [CAT])}", cards.parse(plain))[0]
    assert (row["photo"], row["found"]) == ("a.png", "cat 4 6 14 14")


def test_a_card_of_two_pictures_must_say_which_one_the_set_is_about(coco):
    plain = {"factory": "own:build", "inputs": {"rgb": THERMAL, "heat": THERMAL}, "outputs": {"out": {"task": "tensor"}}}
    with pytest.raises(DataError, match="the card has 2 inputs that are pictures: rgb, heat"):
        rows(f"coco:{coco(IMAGES, [CAT])}", cards.parse(plain))
