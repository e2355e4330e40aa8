"""Cards, recipes and run.yaml in another encoding."""

import pytest

from edgemm.box.serving import run_yaml
from edgemm.contracts import card_file, recipe
from edgemm.contracts.card import Card
from edgemm.errors import EdgemmError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "# café".encode("latin-1"),
            "0xe9, which is 'é' in Windows' and Latin-1 files.\n  fix: save the file as UTF-8 (iconv -f WINDOWS-1252",
        ),
        ("name: café".encode("utf-16"), "(iconv -f UTF-16 -t UTF-8 "),
        (b"# caf\xc3\xa9 \xff", "fix: other letters beside it are UTF-8: mend that place."),
    ],
)
@pytest.mark.parametrize("load", [card_file.load, recipe.load, lambda path: run_yaml.load(path, Card({}, {}))])
def test_another_encoding_is_told_with_the_way_to_convert_it(tmp_path, load, content, words):
    path = tmp_path / "a file.yaml"
    path.write_bytes(content)
    with pytest.raises(EdgemmError) as error:
        load(path)
    assert words in str(error.value)
    assert "mend that place" in words or f"'{path}' > '{tmp_path / 'utf8-a file.yaml'}')" in str(error.value)
