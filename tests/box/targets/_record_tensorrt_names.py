"""Write tensorrt_names.json anew: enum members and method names, read from the real Python bindings of several TensorRT versions.

No GPU and no TensorRT library is needed: the bindings import nine C functions, which an empty library offers. By hand, with network:

    python tests/box/targets/_record_tensorrt_names.py tensorrt_cu12_bindings==10.3.0 tensorrt_cu13_bindings==11.4.0.106
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edgemm.box.targets._tensorrt.api import NEEDS

ENUMS = ("NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "ProfilingVerbosity", "TensorIOMode", "DataType",
         "LayerInformationFormat")  # fmt: skip
FUNCTIONS = ("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL", "getPluginRegistry",
             "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion",
             "initLibNvInferPlugins")  # fmt: skip
READ = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
enums, classes = json.loads(sys.argv[2])
members = {name: {k: int(v) for k, v in getattr(module, name).__members__.items()} for name in enums}
methods = {name: [m for m in wanted if hasattr(getattr(module, name), m)] for name, wanted in classes.items()}
print(json.dumps({"enums": members, "classes": methods}))
"""


def names_of(requirement: str, folder: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder), requirement]
    subprocess.run(command, check=True)
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
    binding = next(folder.rglob("tensorrt.so"))
    (folder / "stub.c").write_text("".join(f"void* {name}(void){{return 0;}}" for name in FUNCTIONS))
    for library in ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin"):
        for major in (10, 11):
            name = f"{library}.so.{major}"
            subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, folder / "stub.c", f"-Wl,-soname,{name}"], check=True)
    wanted = json.dumps([ENUMS, {name: list(methods) for name, methods in NEEDS.items()}])
    read = subprocess.run(
        [sys.executable, "-c", READ, binding, wanted], env={"LD_LIBRARY_PATH": str(folder)}, capture_output=True, check=True
    )
    return dict(json.loads(read.stdout))


if __name__ == "__main__":
    tables = {}
    for requirement in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            tables[requirement] = names_of(requirement, Path(folder))
    Path(__file__).with_name("tensorrt_names.json").write_text(json.dumps(tables, indent=1) + "\n")
