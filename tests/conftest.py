"""What all tests share: a cache of their own, one thread, the generated porch set, and the packed datasets where they are."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import chromium  # noqa: F401  # a fixture
from tests.places import PACKS

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two workers share two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")

DIED = pytest.StashKey[bool]()
ROOT = Path(__file__).parents[1]
UNPACK = PACKS.parent / "tools" / "unpack_dataset.py"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker process that died, as a fault in a runtime makes it: the run ends, for xdist would wait for that worker's tests for ever."""
    if error:
        node.config.stash[DIED] = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After such a run ``make test-again`` has nothing to repeat, and so fails: much was never run."""
    if session.config.stash.get(DIED, False):
        session.config.cache.set("cache/lastfailed", {})  # type: ignore[union-attr]


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Finished stages go to a folder of this test run, never to the user's cache."""
    place = tmp_path_factory.mktemp("cache")
    before = os.environ.get("EDGEMM_CACHE")
    os.environ["EDGEMM_CACHE"] = str(place)
    yield place
    if before is None:
        del os.environ["EDGEMM_CACHE"]
    else:
        os.environ["EDGEMM_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def device_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests that measure do not wait for those of another process, nor for the user's own benchmark."""
    os.environ["EDGEMM_DEVICE_LOCK"] = str(tmp_path_factory.mktemp("device"))
    yield
    del os.environ["EDGEMM_DEVICE_LOCK"]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    place = tmp_path / "cache"
    monkeypatch.setenv("EDGEMM_CACHE", str(place))
    return place


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """``shared(name, make)``: a folder that ``make(folder)`` fills once for all worker processes of this run."""

    def once(name: str, make: Callable[[Path], object]) -> Path:
        base = tmp_path_factory.getbasetemp()
        place = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / f"shared-{name}"
        if not place.is_dir():
            aside = tmp_path_factory.mktemp(name)
            make(aside)
            try:
                aside.rename(place)
            except OSError:  # another worker was first; its folder holds the same
                shutil.rmtree(aside)
        return place

    return once


@pytest.fixture(scope="session")
def porch(shared: Callable[..., Path]) -> Path:
    """A small porch set as a dataset folder: 120 train, 24 val, 60 test scenes."""
    from edgemm.verbs._demo.scenes import write

    return shared("porch", lambda folder: write(folder, {"train": 120, "val": 24, "test": 60}))


@pytest.fixture(scope="session")
def unpacked(shared: Callable[..., Path]) -> Callable[..., Path]:
    """``unpacked("avdigits", "--spoiled", limit=200)``: a packed dataset as a folder; skips where the pack is absent."""

    def unpack(name: str, *options: str, limit: int | None = None) -> Path:
        if not UNPACK.is_file() or not (PACKS / name).is_dir():
            pytest.skip(f"the packed dataset '{name}' is not in {PACKS} (set EDGEMM_DATA)")
        limits = ["--limit", str(limit)] if limit else []

        def make(folder: Path) -> None:
            subprocess.run([sys.executable, UNPACK, name, folder, *options, *limits], check=True, capture_output=True)

        return shared("-".join([name, *(option.strip("-") for option in options), str(limit or "all")]), make)

    return unpack


@pytest.fixture
def fresh_python() -> Callable[[str], str]:
    """``fresh_python(code)``: what ``code`` prints in a process of its own; fails the test when it fails."""

    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``sshd(PATH=...)``: a real ssh server on this machine, with these variables in its sessions; skips where there is none."""
    spec = importlib.util.spec_from_file_location("sshd", Path(__file__).with_name("sshd.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.program() is None:
        pytest.skip("there is no sshd here: sudo apt-get install -y openssh-server (`make system`)")
    running = []

    def start(**variables: str) -> Any:
        folder = tmp_path / f"sshd{len(running)}"
        folder.mkdir()
        running.append(module.Sshd(folder, **variables))
        return running[-1]

    yield start
    for server in running:
        server.stop()
