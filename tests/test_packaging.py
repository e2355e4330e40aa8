"""What is built from this folder is complete."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LISTED = "import json, edgemm; print(json.dumps(edgemm.list().to_dict()))"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_wheel_lists_the_same_recipes_cards_and_variants_as_the_checkout(built, tmp_path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    assert sorted(path.name for path in (tmp_path / "edgemm" / "_recipes").iterdir()) == sorted(os.listdir(ROOT / "recipes"))
    listed = [
        subprocess.run(
            [sys.executable, "-c", LISTED],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(place)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for place in (tmp_path, ROOT)
    ]
    assert listed[0] == listed[1] != ""


def test_the_wheel_holds_every_file_of_the_package(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    tracked = subprocess.run(["git", "ls-files", "edgemm"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("this folder is no git checkout")
    assert {name for name in tracked if (ROOT / name).exists()} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_a_build_and_the_tests_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "Makefile",
        "recipes/openvino-int8.yaml",
        "tests/conftest.py",
        "edgemm/cli.py",
    } <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "build/"))]
