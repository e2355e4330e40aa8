"""fleet.yaml: short and long forms, and every mistake of it at once."""

import pytest

from edgemm.box.remote.fleet_file import Board, load
from edgemm.errors import Mistakes, RemoteError


def write(folder, text):
    (folder / "fleet.yaml").write_text(text)
    return folder / "fleet.yaml"


def test_boards_are_addresses_or_mappings_and_defaults_hold_where_nothing_is_said(tmp_path):
    text = """
    defaults: {setup: true}
    boards:
      porch: ssh://nvidia@porch
      desk: {url: "ssh://pi@desk:2222", setup: false, target: onnxruntime}
      here: local
    """
    assert load(write(tmp_path, text), defaults={"fallback": True}) == [
        Board("porch", "ssh://nvidia@porch", setup=True, fallback=True),
        Board("desk", "ssh://pi@desk:2222", fallback=True, target="onnxruntime"),
        Board("here", "local", setup=True, fallback=True),
    ]


def test_all_mistakes_are_told_at_once(tmp_path):
    text = """
    default: {}
    boards: {"../up": local, porch: porch.local, desk: {setup: true}, yard: {url: local, setup: often, speed: 9}}
    """
    with pytest.raises(Mistakes) as caught:
        load(write(tmp_path, text))
    words = str(caught.value)
    for part in (
        "unknown key 'default'", "'../up' is no name of a board", "'porch.local' is no address", "boards.desk has no address",
        "boards.yard.setup: 'often' is not true or false", "boards.yard: unknown key 'speed'",
    ):  # fmt: skip
        assert part in words


@pytest.mark.parametrize(("text", "words"), [("- a", "is not a mapping"), ("boards: {}", "names no board"), ("boards: [", "cannot read")])
def test_what_is_no_fleet_is_told(tmp_path, text, words):
    with pytest.raises(RemoteError, match=words):
        load(write(tmp_path, text))


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RemoteError, match=r"cannot read .*none\.yaml"):
        load(tmp_path / "none.yaml")
