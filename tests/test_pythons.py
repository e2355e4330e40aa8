"""The oldest and the newest Python that pyproject.toml promises, where this machine has them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROMISED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
FLOOR, NEWEST = PROMISED[0], PROMISED[-1]
BUNDLE = ROOT / "tests" / "fixtures" / "v0_1" / "bundle.edgemm"
COMPILE = """
import pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.py")):
    compile(path.read_text(encoding="utf-8"), str(path), "exec")
print(*sys.version_info[:2], sep=".")
"""
IMPORT = """
import importlib, pkgutil, sys
import edgemm
for room in ("contracts", "store", "data", "report", "box"):
    for module in pkgutil.walk_packages([f"{edgemm.__path__[0]}/{room}"], f"edgemm.{room}."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as err:  # a runtime or a source's library, which this box does not have
            assert not str(err.name).startswith("edgemm"), err
print("torch" in sys.modules, edgemm.__version__)
"""


def places(version: str) -> Iterator[Path]:
    """Where a Python of that version may lie."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        yield Path(sys.executable)
    if on_path := shutil.which(f"python{version}"):
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path.home() / ".local" / "share" / "uv" / "python")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))
    yield from sorted(uv.glob(f"cpython-{version}.*/bin/python{version}"))


def interpreter(version: str) -> Path:
    """A Python of that version that can make environments; skips where this machine has none."""
    for path in places(version):
        if subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode == 0:
            return path
    pytest.skip(
        f"no Python {version} with ensurepip here (looked on PATH, in pyenv and in uv): what pyproject promises for it is not tested"
    )


def test_the_oldest_python_is_the_one_that_pyproject_requires():
    assert f'requires-python = ">={FLOOR}"' in PYPROJECT
    assert f'target-version = "py{FLOOR.replace(".", "")}"' in PYPROJECT


@pytest.mark.parametrize("version", [FLOOR, NEWEST])
def test_every_file_is_written_in_that_pythons_grammar(version):
    done = subprocess.run([interpreter(version), "-c", COMPILE, ROOT / "edgemm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == version


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize("version", [FLOOR, NEWEST])
def test_a_box_of_that_python_verifies_a_bundle_without_torch(version, wheel, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"EDGEMM_CACHE": str(tmp_path / "cache")}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(word) for word in words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    python = tmp_path / "box" / "bin" / "python"
    assert run(interpreter(version), "-m", "venv", tmp_path / "box").returncode == 0
    installed = run(python, "-m", "pip", "install", "--quiet", f"{wheel}[onnxruntime]")
    if installed.returncode != 0 and "onnection" in installed.stderr:
        pytest.skip(f"packages for Python {version} cannot be fetched here: {installed.stderr.strip().splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    imported = run(python, "-W", "error::SyntaxWarning", "-c", IMPORT)
    assert imported.stdout.split()[:1] == ["False"], imported.stderr
    verified = run(python, "-m", "edgemm", "verify", BUNDLE)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "golden" in verified.stdout
