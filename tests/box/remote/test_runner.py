"""The part of edgemm that runs on another machine: one file, the same bytes for the same source, none of the workshop in it."""

import json
import subprocess
import sys
import zipfile

import pytest

from edgemm.box.remote import __main__ as runner
from edgemm.box.remote.packing import pack


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("packed"))


def started(packed, *words, python=sys.executable, **variables):
    return subprocess.run([python, packed, *words], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", **variables})


def test_it_is_small_always_the_same_and_without_the_workshop(packed, tmp_path):
    assert packed.stat().st_size < 3 << 19
    again = pack(tmp_path)
    assert (again.name, again.read_bytes()) == (packed.name, packed.read_bytes())
    names = zipfile.ZipFile(packed).namelist()
    assert {"__main__.py", "edgemm/verbs/benchmark.py", "edgemm/box/devices/boards.yaml", "yaml/__init__.py"} <= set(names)
    assert not [name for name in names if name.startswith(("edgemm/models/", "edgemm/steps/", "edgemm/pruning/"))]


def test_it_says_what_is_there_from_its_own_copy(packed):
    done = started(packed, "probe", "onnxruntime", "tensorrt")
    facts = json.loads(done.stdout)
    assert facts["numpy"]
    assert set(facts["targets"]) == {"onnxruntime", "tensorrt"}
    assert packed.with_name(f"{packed.name}.unpacked").is_dir()


def test_without_numpy_it_says_so_and_asks_for_nothing_else(packed, tmp_path):
    (tmp_path / "numpy.py").write_text("raise ImportError('not here')\n")
    facts = json.loads(started(packed, "probe", "onnxruntime", PYTHONPATH=str(tmp_path)).stdout)
    assert (facts["numpy"], facts["targets"]) == (None, {})


def test_it_tells_an_error_as_the_command_line_does(packed, tmp_path):
    done = started(packed, "verify", str(tmp_path))
    assert done.returncode == 1
    assert "is not a bundle" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        runner.main(["dance"])
    assert end.value.code == 2
    assert "invalid choice: 'dance'" in capsys.readouterr().err


def test_a_job_that_fails_says_why_in_its_status(packed, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"bundle": "none.edgemm", "fallback": False, "options": {}}))
    done = started(packed, "run", str(tmp_path))
    assert done.returncode == 1
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["kind"]) == ("failed", "BundleError")
    assert "none.edgemm" in status["what"]


def test_every_file_of_it_is_python_3_10(packed):
    import ast

    archive = zipfile.ZipFile(packed)
    sources = [name for name in archive.namelist() if name.endswith(".py")]
    assert "edgemm/box/bundle/opened.py" in sources
    for name in sources:
        ast.parse(archive.read(name), name, feature_version=(3, 10))
