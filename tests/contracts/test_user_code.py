"""Finding and importing the user's factory."""

import sys
from pathlib import Path

import pytest

from edgemm.contracts import card_file, user_code
from edgemm.errors import CardError, CheckpointError

MODEL = "def build(size=3):\n    return ('built here', size)\n"


def made(folder: Path, *, of="model:build", files=None, **keys):
    """A card in ``folder``, with the files beside it."""
    for name, text in ({"model.py": MODEL} if files is None else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    plain = {"factory": of, "inputs": {"x": {"modality": "sensor", "shape": [2]}}, "outputs": {"y": {"task": "regression"}}}
    return card_file.parse(plain | keys, path=folder / "model.yaml")


def test_a_factory_beside_the_card_is_called_with_the_kwargs(tmp_path):
    assert user_code.call(made(tmp_path, kwargs={"size": 5})) == ("built here", 5)


def test_the_cards_source_folder_comes_first(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "model.py").write_text("build = lambda: 'from src'\n")
    assert user_code.call(made(tmp_path, source="src")) == "from src"


def test_then_the_current_directory_and_the_import_path(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "card").mkdir()
    (tmp_path / "here" / "elsewhere.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path / "here")
    assert user_code.call(made(tmp_path / "card", of="elsewhere:build", files={})) == ("built here", 3)
    assert user_code.call(made(tmp_path / "card", of="collections:OrderedDict", files={})) == {}


def test_a_dotted_module_in_a_package_is_found(tmp_path):
    files = {"porch/__init__.py": "", "porch/model.py": "from porch.parts import part\n" + MODEL, "porch/parts.py": "part = 1\n"}
    assert user_code.call(made(tmp_path, of="porch.model:build", files=files))[0] == "built here"


def test_the_import_path_is_as_it_was_afterwards(tmp_path):
    before = list(sys.path)
    user_code.call(made(tmp_path))
    with pytest.raises(CheckpointError):
        user_code.call(made(tmp_path, of="broken:build", files={"broken.py": "1 / 0\n"}))
    assert sys.path == before
    assert not list(tmp_path.rglob("__pycache__"))


def test_two_cards_with_equal_module_names_each_get_their_own(tmp_path):
    cards = {}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files = {"twin.py": "from twin_layers import LAYER\nbuild = lambda: LAYER\n", "twin_layers.py": f"LAYER = {name!r}\n"}
        cards[name] = made(tmp_path / name, of="twin:build", files=files)
    assert [user_code.call(cards[name]) for name in ("first", "second", "first", "second")] == ["first", "second", "first", "second"]


def test_the_same_card_twice_gets_the_same_classes(tmp_path):
    own = made(tmp_path, of="stable:build", files={"stable.py": "class M: pass\nbuild = M\n"})
    assert type(user_code.call(own)) is type(user_code.call(own))


def test_a_source_file_changed_meanwhile_is_read_anew(tmp_path):
    own = made(tmp_path, of="edited:build", files={"edited.py": "build = lambda: 1\n"})
    assert user_code.call(own) == 1
    (tmp_path / "edited.py").write_text("build = lambda: 2\n")
    assert user_code.call(own) == 2


def test_a_module_that_the_program_imported_itself_stays_its_own(tmp_path, monkeypatch):
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "clash.py").write_text("who = 'program'\n")
    monkeypatch.syspath_prepend(str(tmp_path / "program"))
    import clash

    (tmp_path / "card").mkdir()
    assert user_code.call(made(tmp_path / "card", of="clash:build", files={"clash.py": MODEL}))[0] == "built here"
    assert sys.modules["clash"] is clash
    assert clash.who == "program"
    monkeypatch.delitem(sys.modules, "clash")


def test_a_factory_that_is_no_module_and_callable_is_an_error(tmp_path):
    with pytest.raises(CardError, match=r"factory 'model\.build' is not of the form module:callable"):
        user_code.call(made(tmp_path, of="model.build"))


def test_an_unknown_module_is_named_with_the_places_searched(tmp_path):
    with pytest.raises(CardError, match=r"there is no module 'modell'(.|\n)*looked in " + str(tmp_path)):
        user_code.call(made(tmp_path, of="modell:build"))


def test_an_unknown_callable_is_named_with_the_nearest(tmp_path):
    with pytest.raises(CardError, match=r"has no 'biuld'(.|\n)*did you mean 'build'"):
        user_code.call(made(tmp_path, of="model:biuld"))


def test_something_not_callable_is_an_error(tmp_path):
    with pytest.raises(CardError, match="'SIZE' is a int, not callable"):
        user_code.call(made(tmp_path, of="constants:SIZE", files={"constants.py": "SIZE = 3\n"}))


@pytest.mark.parametrize("annotation", ["str", "'str | None'", "Literal['batch', 'off']"])
def test_a_bool_where_the_factory_takes_words_is_told(tmp_path, annotation):
    card = made(tmp_path, kwargs={"norm": False})
    (tmp_path / "words.py").write_text(f"from typing import Literal\ndef build(norm: {annotation}, deep=True): return norm\n")
    with pytest.raises(CardError, match=r'norm is false(.|\n)*in quotes, such as norm: "off"'):
        user_code.call(card.replace(factory="words:build"))
    assert user_code.call(card.replace(factory="words:build", kwargs={"norm": "off", "deep": False})) == "off"


def test_kwargs_the_factory_does_not_take_are_an_error_with_its_signature(tmp_path):
    with pytest.raises(CardError, match=r"unexpected keyword argument 'sise'(.|\n)*it is build\(size=3\)"):
        user_code.call(made(tmp_path, kwargs={"sise": 5}))


def test_an_exception_while_importing_names_file_and_line(tmp_path):
    files = {"importing.py": "import inner_of_importing\n", "inner_of_importing.py": "x = 1\nraise ValueError('no luck')\n"}
    with pytest.raises(CheckpointError, match=r"failed at .*inner_of_importing.py:2(.|\n)*ValueError: no luck"):
        user_code.call(made(tmp_path, of="importing:build", files=files))


def test_a_syntax_error_names_file_and_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"failed at .*syntax.py:2(.|\n)*SyntaxError"):
        user_code.call(made(tmp_path, of="syntax:build", files={"syntax.py": "x = 1\ndef build(:\n"}))


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"needy.py:1(.|\n)*install 'no_such_package'"):
        user_code.call(made(tmp_path, of="needy:build", files={"needy.py": "import no_such_package\n"}))


def test_an_exception_inside_the_factory_names_file_and_line(tmp_path):
    files = {"failing.py": "def build():\n    import json\n    return json.loads('{')\n"}
    with pytest.raises(CheckpointError, match=r"factory 'failing:build' failed at .*failing.py:3(.|\n)*JSONDecodeError"):
        user_code.call(made(tmp_path, of="failing:build", files=files))


def test_a_factory_that_exits_is_an_error_not_the_end_of_the_program(tmp_path):
    with pytest.raises(CheckpointError, match="SystemExit"):
        user_code.call(made(tmp_path, of="leaving:build", files={"leaving.py": "import sys\nbuild = lambda: sys.exit(1)\n"}))


def test_source_facts_hold_the_file_and_all_it_imports_from_its_folder_without_running_it(tmp_path):
    files = {
        "pack/__init__.py": "raise SystemExit\n",
        "pack/model.py": "import numpy\nfrom . import parts\nfrom .deep.layers import L\nimport top\n",
        "pack/parts.py": "", "pack/deep/__init__.py": "", "pack/deep/layers.py": "def late():\n    import pack.lazy\n", "pack/lazy.py": "",
        "pack/unused.py": "", "top.py": "import pack.model\n",
    }  # fmt: skip
    facts = user_code.source_facts(made(tmp_path, of="pack.model:build", files=files))
    assert sorted(facts) == [
        "pack/__init__.py", "pack/deep/__init__.py", "pack/deep/layers.py", "pack/lazy.py", "pack/model.py", "pack/parts.py", "top.py",
    ]  # fmt: skip
    (tmp_path / "pack" / "lazy.py").write_text("changed = True\n")
    assert user_code.source_facts(made(tmp_path, of="pack.model:build", files={})) != facts


def test_an_installed_packages_factory_is_known_by_its_version(tmp_path):
    facts = user_code.source_facts(made(tmp_path, of="numpy.random:default_rng", files={}))
    assert facts["numpy"] == __import__("numpy").__version__


def test_a_users_own_models_py_is_told_from_the_shipped_models(tmp_path):
    assert user_code.kind(made(tmp_path, of="models:digits", files={})) == "shipped"
    assert user_code.kind(made(tmp_path, of="models:build", files={"models.py": MODEL})) == "own"
    assert user_code.kind(made(tmp_path, of="hf:AutoModel", files={})) == "hf"
