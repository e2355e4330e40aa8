"""edgemm in processes where packages are missing."""

import pytest

import edgemm
from edgemm.contracts.recipe import shipped

WORKSHOP = ("torch", "torchao", "nncf", "onnx", "onnxscript", "onnx_ir", "transformers", "accelerate", "safetensors", "torchmetrics")
RUNTIMES = ("openvino", "onnxruntime", "tensorrt", "tensorrt_rtx")
SERVING = ("av", "paho", "starlette", "uvicorn", "prometheus_client")
OPTIONAL = (*WORKSHOP, *RUNTIMES, *SERVING, "PIL", "soundfile", "tokenizers", "pyarrow", "cryptography", "scipy")
BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
BOX = (
    "store.artifact", "store.cache", "contracts.card", "contracts.recipe", "contracts.report", "contracts.specs", "contracts.step",
    "data.dataset", "data.scoring", "report.page", "verbs._demo.scenes", "box.bundle.proving", "box.remote.job", "box.serving.runner",
)  # fmt: skip
BOX_VERBS = ("benchmark", "compile", "doctor", "list", "run", "verify")


def without(*packages: str) -> str:
    return BLOCK.format(blocked=set(packages))


def test_import_edgemm_and_every_help_page_need_none_of_the_optional_packages(fresh_python):
    printed = fresh_python(f"""{without(*OPTIONAL)}
import contextlib, io
import edgemm
from edgemm.cli import main
for command in [None, *edgemm.__all__]:
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        try:
            main([command, "--help"] if command else ["--help"])
        except SystemExit as end:
            assert end.code == 0, (command, end.code)
    assert "Usage:" in page.getvalue(), command
    print(command)
""")
    assert printed.split() == ["None", *edgemm.__all__]


def test_the_help_page_loads_neither_numpy_nor_rich_nor_yaml(fresh_python):
    printed = fresh_python("""
import sys
from edgemm.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print("loaded:", sorted({"numpy", "rich", "yaml"} & set(sys.modules)))
""")
    assert printed.splitlines()[-1] == "loaded: []"


def test_import_edgemm_loads_nothing_but_itself(fresh_python):
    printed = fresh_python("import edgemm, sys; print(sorted(name for name in sys.modules if name.startswith('edgemm')))")
    assert printed.strip() == "['edgemm']"


@pytest.mark.parametrize("module", [f"edgemm.{name}" for name in BOX] + [f"edgemm.verbs.{name}" for name in BOX_VERBS])
def test_the_box_side_imports_without_the_workshop(module, fresh_python):
    assert fresh_python(f"{without(*WORKSHOP)}\nimport {module}\nprint('imported')") == "imported\n"


def test_datasets_modules_import_without_the_data_extra(fresh_python):
    code = "import edgemm.data.dataset, edgemm.contracts.modality, edgemm.box.bundle.opened\nprint('imported')"
    assert fresh_python(f"{without(*OPTIONAL)}\n{code}") == "imported\n"


def test_a_recipe_is_checked_without_importing_torch_or_a_runtime(fresh_python):
    printed = fresh_python(f"""{without(*OPTIONAL)}
from edgemm.contracts import recipe
print(*[recipe.load(name).name for name in recipe.shipped()])
""")
    assert printed.split() == shipped()


def test_a_command_whose_package_is_missing_names_the_extra(fresh_python):
    printed = fresh_python(f"""{without(*OPTIONAL)}
from edgemm.contracts import plugins
from edgemm.errors import MissingExtra
from edgemm.contracts.target import Target
try:
    plugins.load(Target, "openvino").open("nothing.onnx")
except MissingExtra as err:
    print(err)
""")
    assert "needs the package 'openvino'." in printed
    assert "fix: pip install 'edgemm[openvino]'" in printed
