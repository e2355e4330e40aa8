"""What libraries write about themselves does not reach the user; what he writes himself does."""

import os
import subprocess
import sys
import textwrap

import pytest

NOISY = """
import logging, os, sys, warnings
print("printed")
print("on stderr", file=sys.stderr)
os.write(1, b"from C\\n")
os.write(2, b"from C\\n")
warnings.warn("soon gone")
logging.getLogger(__name__).warning("half of me is missing")
"""


def output_of(code: str, folder, **variables: str) -> str:
    """All that ``code`` writes, to either stream, in a process of its own that shows every warning."""
    variables = {**os.environ, "PYTHONWARNINGS": "default", **variables}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=folder, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def libraries(tmp_path):
    """A folder with a noisy stand-in of NNCF, and a noisy module of the user's that imports it."""
    (tmp_path / "nncf.py").write_text(NOISY)
    (tmp_path / "mine.py").write_text("import nncf\nimport warnings\nprint('my print')\nwarnings.warn('my warning')\n")
    return tmp_path


def test_an_import_of_a_library_writes_nothing_on_either_stream(libraries):
    assert output_of("from edgemm.contracts.libraries import quiet_imports\nwith quiet_imports():\n    import nncf", libraries) == ""


def test_a_users_module_that_imports_one_keeps_its_own_prints_and_warnings(libraries):
    code = """
        from edgemm.contracts.libraries import quiet_imports, quiet_warnings
        with quiet_imports(), quiet_warnings():
            import mine
    """
    lines = output_of(code, libraries).splitlines()
    assert lines[0] == "my print"
    assert lines[1].endswith("mine.py:4: UserWarning: my warning")
    assert not [line for line in lines if "printed" in line or "from C" in line or "missing" in line]


def test_with_debug_everything_is_shown(libraries):
    shown = output_of(
        "from edgemm.contracts.libraries import quiet_imports\nwith quiet_imports():\n    import nncf", libraries, EDGEMM_DEBUG="1"
    )
    for line in ("printed", "on stderr", "from C", "soon gone", "half of me is missing"):
        assert line in shown


def test_an_import_that_fails_tells_what_was_written_meanwhile(libraries):
    (libraries / "nncf.py").write_text("import os\nos.write(2, b'no such driver')\nraise ImportError('libdriver.so')")
    code = """
        from edgemm.contracts.libraries import quiet_imports
        try:
            with quiet_imports():
                import nncf
        except ImportError as err:
            print(err, err.__notes__)
    """
    assert output_of(code, libraries) == "libdriver.so ['It was written meanwhile:\\nno such driver']\n"


def test_afterwards_imports_are_as_loud_as_ever(libraries):
    code = """
        from edgemm.contracts.libraries import quiet_imports
        with quiet_imports():
            pass
        import nncf
    """
    assert "printed" in output_of(code, libraries)


def test_a_handler_that_a_library_makes_while_it_is_imported_works_afterwards(libraries):
    (libraries / "nncf.py").write_text("import logging\nlogging.getLogger('nncf').addHandler(logging.StreamHandler())\n")
    code = """
        import logging
        from edgemm.contracts.libraries import quiet_imports
        with quiet_imports():
            import nncf
        logging.getLogger("nncf").warning("a true one")
    """
    assert output_of(code, libraries) == "a true one\n"


def test_calls_of_libraries_log_and_warn_nothing_and_the_users_code_does_both(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import logging, warnings\ndef forward():\n    print('my print')\n    warnings.warn('my warning')\n"
        "    logging.getLogger('mine').warning('my line')\n"
    )
    code = """
        import logging, warnings
        import mine
        from edgemm.contracts.libraries import quiet_calls
        import xml.dom  # stands for a library: a file of an installed package
        lines = "import logging\\nlogging.getLogger('torch').warning('theirs')\\nlogging.warning('theirs too')"
        loud = compile(lines, xml.dom.__file__, "exec")
        logging.getLogger("mine")
        with quiet_calls():
            exec(loud, {"__name__": "torch.onnx"})
            exec("import warnings; warnings.warn('theirs as well')", {"__name__": "torch.onnx"})
            mine.forward()
    """
    shown = output_of(code, tmp_path)
    assert "theirs" not in shown
    for line in ("my print", "my warning", "my line"):
        assert line in shown


@pytest.mark.parametrize(
    "module",
    [
        "edgemm.workshop.steps.qat",
        "edgemm.workshop.steps.quantize",
        "edgemm.workshop.training.loop",
        "edgemm.workshop.models.encoders.hf_text",
        "edgemm.box.targets.openvino",
        "edgemm.box.targets.onnxruntime",
        "edgemm.box.targets.tensorrt",
    ],
)
def test_importing_what_needs_a_library_writes_nothing(module, tmp_path):
    assert output_of(f"import {module}", tmp_path) == ""


def test_nncf_and_a_model_of_transformers_come_without_a_word(tmp_path):
    code = """
        from edgemm.contracts import card_file
        from edgemm.workshop.models.checkpoint.loading import build_module
        from edgemm.workshop.quantizing import nncf
        nncf._import()
        config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        build_module(card_file.parse({
            "factory": "models:resnet-bert",
            "kwargs": {"encoders": {"text": {"hf_text": {"config": config}}}},
            "inputs": {"text": {"modality": "text", "vocab": 100, "length": 8}},
            "outputs": {"event": {"task": "classification", "labels": ["a", "b"]}},
        }))
        import sys
        assert "torchao" in sys.modules, "transformers imports it by itself, and it has the most to say"
    """
    assert output_of(code, tmp_path) == ""
