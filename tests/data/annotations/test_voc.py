"""Pascal VOC: boxes counted from 1, lists for the splits, difficult objects, and what is refused."""

import pytest

from edgemm.data.dataset import open_dataset
from edgemm.errors import DataError, Mistakes

THING = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


@pytest.fixture
def voc(tmp_path, picture):
    """``voc(things, lists)``: a folder with one picture a name; returns it."""

    def write(things, lists=None, size=(48, 32)):
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        for name, objects in things.items():
            picture(tmp_path / f"JPEGImages/{name}.jpg")
            head = f"<filename>{name}.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
            body = "".join(THING.format(*entry) for entry in objects)
            (tmp_path / f"Annotations/{name}.xml").write_text(f"<annotation>{head}{body}</annotation>")
        for split, names in (lists or {}).items():
            (tmp_path / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))
        return tmp_path

    return write


def boxes(data, card, split="train"):
    return [row.cells["objects"] for row in open_dataset(data, card).source.rows(split)]


def test_boxes_are_counted_from_one_with_both_ends_in_them(voc, card):
    folder = voc(
        {"a": [("traffic light", 0, 1, 1, 48, 32)], "b": [("cat", 1, 5, 6, 10, 10)]}, {"train": ["a"], "val": ["b 1"], "cat_train": ["b"]}
    )
    assert boxes(f"voc:{folder}", card()) == ["traffic light 0 0 48 32"]
    assert boxes(f"voc:{folder}", card(), "val") == ["cat 4 5 10 10 ignored"]
    with pytest.raises(DataError, match="split 'test' has no rows") as caught:
        open_dataset(f"voc:{folder}", card()).require_rows("test")
    assert "there is no list" in caught.value.why


def test_without_lists_all_is_train_and_val_is_set_aside(voc, card):
    folder = voc({f"{number:02}": [] for number in range(30)})
    dataset = open_dataset(f"voc:{folder}", card())
    assert dataset.count("train") + dataset.count("val") == 30
    assert dataset.count("val") > 0


def test_a_set_that_counts_from_zero_is_refused_until_it_says_so(voc, card):
    folder = voc({"a": [("cat", 0, 0, 4, 48, 32)], "b": []}, {"train": ["a"], "val": ["b"]})
    with pytest.raises(DataError, match="boxes that begin before 1: 1") as caught:
        open_dataset(f"voc:{folder}", card())
    assert f"-d voc:{folder},from=0" in caught.value.fix
    assert boxes(f"voc:{folder},from=0", card()) == ["cat 0 4 48 32"]


def test_all_mistakes_are_told_at_once_with_their_files(voc, card):
    things = {"a": [("cat", 0, 1, 1, 60, 30)], "b": [("", 0, 1, 1, 9, 9)], "c": [("cat", 0, 5, 5, 3, 9)]}
    folder = voc(things, {"train": ["a", "b", "c", "d", "e"]})
    (folder / "Annotations/e.xml").write_text("<annotation><object>")
    with pytest.raises(Mistakes) as caught:
        open_dataset(f"voc:{folder}", card())
    words = caught.value.block()
    for told in (
        "marks that cannot be: 1.",
        "'a': the box 0 0 60 30 lies outside",
        "'c': the box 4 4 3 9 has no area",
        "objects without a name or a box: 1.",
        "b.xml': object 1",
        "names in lists without an .xml: 1.",
        "d.xml'",
        "files that are not XML: 1.",
        "e.xml'",
        "pictures that cannot be read: 2.",
    ):
        assert told in words
    with pytest.raises(DataError, match="there is no folder"):
        open_dataset(f"voc:{folder}/JPEGImages", card())


def test_sizes_that_are_not_the_file_s_are_refused(voc, card):
    with pytest.raises(DataError, match="another size than is written: 1"):
        open_dataset(f"voc:{voc({'a': []}, size=(640, 480))}", card())
