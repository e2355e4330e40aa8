"""COCO: ids with holes, splits by files, crowds, keys of image records, and what is refused."""

import json

import pytest

from edgemm.data.dataset import open_dataset
from edgemm.errors import DataError, Mistakes

CAT = {"id": 1, "image_id": 1, "category_id": 90, "bbox": [4, 6, 10.5, 8]}


def cells(data, card, **options):
    """The cells of all rows, whatever split, in their order."""
    dataset = open_dataset(data, card, **options)
    rows = sorted((row for split in dataset.splits() for row in dataset.source.rows(split)), key=lambda row: row.number)
    return [dict(row.cells) for row in rows]


def test_categories_are_taken_by_name_and_crowds_are_ignored(coco, card):
    crowd = {
        "id": 2,
        "image_id": 1,
        "category_id": 7,
        "bbox": [0, 0, 48, 32],
        "iscrowd": 1,
        "segmentation": {"counts": [], "size": [32, 48]},
    }
    path = coco([{"id": 1, "file_name": "a.png"}, {"id": 5, "file_name": "b.png"}], [CAT, crowd])
    rows = cells(f"coco:{path}", card())
    assert [row["objects"] for row in rows] == ["cat 4 6 14.5 14; traffic light 0 0 48 32 ignored", "-"]


def test_one_file_is_train_of_which_a_part_is_val_and_says_why_there_is_no_test(coco, card):
    path = coco([{"id": number, "file_name": f"{number}.png"} for number in range(1, 31)], [], name="labels.json")
    dataset = open_dataset(f"coco:{path}", card())
    assert dataset.count("train") + dataset.count("val") == 30
    assert dataset.count("val") > 0
    with pytest.raises(DataError, match="neither its name nor a key 'split' of its images says more"):
        dataset.require_rows("test")


def test_splits_come_from_names_or_as_they_are_given(coco, card, tmp_path):
    one = coco([{"id": 1, "file_name": "a.png"}], [CAT], name="instances_val2017.json")
    other = coco([{"id": 1, "file_name": "b.png"}], [CAT], name="other.json")
    both = open_dataset(f"coco:{one},test={other}", card())
    assert both.splits() == ["val", "test"]
    with pytest.raises(DataError, match="the name says neither train, val nor test"):
        open_dataset(f"coco:{one},{other}", card())
    with pytest.raises(DataError, match="'tset' is no split"):
        open_dataset(f"coco:tset={other}", card())


def test_a_folder_of_coco_s_own_layout_is_found(coco, card, tmp_path, picture):
    for split in ("train", "val"):
        picture(tmp_path / f"images/{split}2017/1.png")
        record = {
            "images": [{"id": 1, "file_name": "1.png", "width": 48, "height": 32}],
            "annotations": [CAT],
            "categories": [{"id": 90, "name": "cat"}],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/instances_{split}2017.json").write_text(json.dumps(record))
    dataset = open_dataset(f"coco:{tmp_path}", card())
    assert {split: dataset.count(split) for split in dataset.splits()} == {"train": 1, "val": 1}
    assert next(iter(dataset.source.rows("val"))).cells["image"] == "../images/val2017/1.png"


def test_keys_of_an_image_are_other_columns(coco, card):
    path = coco([{"id": 1, "file_name": "a.png", "gas": "0.5 1"}], [CAT])
    assert cells(f"coco:{path}", card(gas={"modality": "sensor", "shape": [2]}))[0]["gas"] == "0.5 1"


def test_outlines_stand_for_boxes_that_are_not_there(coco, card):
    outline = {"id": 1, "image_id": 1, "category_id": 90, "segmentation": [[4, 6, 14, 6, 14, 20]]}
    assert cells(f"coco:{coco([{'id': 1, 'file_name': 'a.png'}], [outline])}", card())[0]["objects"] == "cat 4 6 14 20"


def test_all_mistakes_are_told_at_once_with_their_places(coco, card):
    wrong = [
        {**CAT, "category_id": 8},
        {**CAT, "id": 2, "bbox": [1, 2, 3]},
        {**CAT, "id": 3, "image_id": 77},
        {**CAT, "id": 4, "image_id": 2, "bbox": [40, 0, 20, 10]},
        {**CAT, "id": 5, "image_id": 3, "bbox": [40, 0, 0, 10]},
        {**CAT, "id": 6, "image_id": 4},
        {**CAT, "id": 6, "image_id": 4, "bbox": [1, 1, 1, 1]},
    ]
    path = coco([{"id": number, "file_name": f"{number}.png"} for number in range(1, 6)], wrong)
    (path.parent / "5.png").unlink()
    with pytest.raises(Mistakes) as caught:
        open_dataset(f"coco:{path}", card())
    words = caught.value.block()
    for told in (
        "categories that are not there: 1.",
        "annotation 1 has category_id 8",
        "boxes that are no four numbers: 1.",
        "annotation 2 has [1, 2, 3]",
        "annotations of images that are not there: 1.",
        "annotation 3 has image_id 77",
        "marks that cannot be: 1.",
        "image 2 '2.png'",
        "lies outside of its picture",
        "has no area",
        "annotations that share an id: 1.",
        "pictures that cannot be read: 1.",
        "image 5 '5.png'",
    ):
        assert told in words


def test_rows_with_mistakes_may_be_left_out_and_the_others_keep_their_numbers(coco, card):
    path = coco([{"id": number, "file_name": f"{number}.png"} for number in (1, 2, 3)], [{**CAT, "image_id": 2, "bbox": [0, 0, 99, 9]}])
    dataset = open_dataset(f"coco:{path}", card(), skip_bad_rows=True)
    rows = [(split, row.number) for split in dataset.splits() for row in dataset.source.rows(split)]
    assert sorted(number for _, number in rows) == [1, 3]
    assert dataset.bad_rows == [entry for entry in dataset.bad_rows if "row 2" in entry and "lies outside" in entry]
    assert len(dataset.bad_rows) == 1


def test_sizes_that_are_not_the_file_s_are_refused_and_exif_is_named(coco, card, tmp_path, picture):
    picture(tmp_path / "turned.jpg", 48, 32, turn=6)
    path = coco([{"id": 1, "file_name": "turned.jpg"}, {"id": 2, "file_name": "b.png", "width": 96, "height": 64}], [])
    with pytest.raises(DataError, match="another size than is written: 2") as caught:
        open_dataset(f"coco:{path}", card())
    assert "'turned.jpg': 48 x 32 is written, the file has 32 x 48, turned upright as its EXIF says" in caught.value.why
    assert "'b.png': 96 x 64 is written, the file has 48 x 32" in caught.value.why
    assert caught.value.why.count("EXIF") == 1


def test_what_is_no_annotation_file_is_refused(coco, card, tmp_path):
    path = tmp_path / "results.json"
    path.write_text('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.9}]')
    with pytest.raises(DataError, match="no annotation file of COCO's") as caught:
        open_dataset(f"coco:{path}", card())
    assert "it is a list, as results are" in caught.value.why
    path.write_text('{"images": [], "annotations": {}')
    with pytest.raises(DataError, match="cannot be read as COCO's JSON"):
        open_dataset(f"coco:{path}", card())
    with pytest.raises(DataError, match="there is no file or folder"):
        open_dataset(f"coco:{tmp_path}/none.json", card())
    path = coco([{"id": 1, "file_name": "a.png"}], [CAT])
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"the pictures of '.*' are not found") as caught:
        open_dataset(f"coco:{path}", card())
    assert "there is no 'a.png': looked in" in caught.value.why
