"""YOLO: data.yaml, texts of ratios, outlines among boxes, and what is refused."""

import pytest

from edgemm.data.dataset import open_dataset
from edgemm.errors import DataError, Mistakes


@pytest.fixture
def yolo(tmp_path, picture):
    """``yolo(texts, yaml)``: a set of one picture a text; returns its data.yaml."""

    def write(texts, yaml="train: images/train\nval: images/val\nnames: [person, no, 'traffic light']\n"):
        for split, files in texts.items():
            for name, text in files.items():
                picture(tmp_path / f"images/{split}/{name}.jpg")
                if text is not None:
                    (tmp_path / f"labels/{split}").mkdir(parents=True, exist_ok=True)
                    (tmp_path / f"labels/{split}/{name}.txt").write_text(text)
        (tmp_path / "data.yaml").write_text(yaml)
        return tmp_path / "data.yaml"

    return write


def boxes(data, card, split="train"):
    return [row.cells["objects"] for row in open_dataset(data, card).source.rows(split)]


def test_ratios_become_pixels_outlines_boxes_and_no_text_nothing(yolo, card):
    texts = {"a": "0 0.5 0.5 0.25 0.5\n2 0.1 0.25 0.5 0.25 0.5 0.75\n", "b": "", "c": None}
    path = yolo({"train": texts, "val": {"d": "1 0.5 0.5 1 1"}})
    assert boxes(f"yolo:{path}", card()) == ["person 18 8 30 24; traffic light 4.8 8 24 24", "-", "-"]
    assert boxes(f"yolo:{path.parent}", card(), "val") == ["no 0 0 48 32"]


def test_lists_of_pictures_and_paths_of_elsewhere_are_followed(yolo, card, tmp_path):
    path = yolo(
        {"train": {"a": "0 0.5 0.5 0.5 0.5"}, "val": {"b": ""}},
        "path: /content/somewhere\ntrain: ../images/train\nval: val.txt\nnames: {0: cat}\n",
    )
    (tmp_path / "val.txt").write_text("./images/val/b.jpg\n\n")
    dataset = open_dataset(f"yolo:{path}", card())
    assert {split: dataset.count(split) for split in dataset.splits()} == {"train": 1, "val": 1}


def test_points_are_no_outline(yolo, card):
    path = yolo(
        {"train": {"a": "0 0.5 0.5 0.5 0.5 0.25 0.5 2 0 0 0\n"}, "val": {"b": ""}},
        "train: images/train\nval: images/val\nkpt_shape: [2, 3]\nnames: [hand]\n",
    )
    assert boxes(f"yolo:{path}", card()) == ["hand 12 8 36 24"]


def test_all_mistakes_are_told_at_once_with_file_and_line(yolo, card):
    path = yolo(
        {
            "train": {"a": "0 0.5 0.5 0.5\n9 0.5 0.5 0.1 0.1\n\n1 24 16 10 10\n", "b": "0 0.5 0.5 0 0.5", "c": "cat 0.5 0.5 0.5 0.5"},
            "val": {"d": ""},
        }
    )
    with pytest.raises(Mistakes) as caught:
        open_dataset(f"yolo:{path}", card())
    words = caught.value.block()
    for told in (
        "lines that are no box: 1.",
        "a.txt, line 1: '0 0.5 0.5 0.5'",
        "classes that data.yaml does not name: 2.",
        "a.txt, line 2",
        "c.txt, line 1",
        "numbers that are no ratios: 1.",
        "a.txt, line 4: '1 24 16 10 10'",
        "marks that cannot be: 1.",
        "b.jpg",
        "has no area",
    ):
        assert told in words


def test_a_data_yaml_that_leads_nowhere_is_refused(yolo, card, tmp_path):
    texts = {"train": {"a": None}, "val": {"b": ""}}
    with pytest.raises(DataError, match="no picture of split 'train' has labels"):
        open_dataset(f"yolo:{yolo(texts)}", card())
    for text, told in (
        ("train: images\n", "it has no 'names'"),
        ("names: [a]\ntrain: pictures\n", "train is 'pictures', which is not there"),
        ("names: [a]\n", "names no split"),
        ("names: [a]\nkpt_shape: 3\n", "kpt_shape is 3"),
    ):
        with pytest.raises(DataError) as caught:
            open_dataset(f"yolo:{yolo(texts, text)}", card())
        assert told in caught.value.block()
