"""What a checkpoint may hold beside tensors without being able to run code: read as plain containers and numbers, or as nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np


class AsDict:
    """Unpickled instead of a kind of dict."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class AsList:
    """Unpickled instead of a kind of list."""

    def __new__(cls, *_: Any) -> Any:
        return []


class AsNothing:
    """Unpickled instead of a value that weights do not need: holds nothing, does nothing."""

    def __new__(cls, *_: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class AsKind:
    """Unpickled instead of numpy's dtype: its word, such as ``f4``, and the order of bytes."""

    def __init__(self, word: Any = "", *_: Any) -> None:
        self.word, self.order = word, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class AsArray:
    """Unpickled instead of numpy's array: ``content`` where it is one of plain numbers."""

    content: np.ndarray | None = None

    def __new__(cls, *_: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, raw = state
        if isinstance(raw, bytes) and isinstance(kind, AsKind) and kind.word in NUMBERS and kind.order in ("<", ">", "|", "="):
            flat = np.frombuffer(raw, np.dtype(kind.word).newbyteorder(kind.order))
            self.content = flat.reshape(shape, order="F" if is_fortran else "C").astype(kind.word)


NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
"""Words of dtypes that torch has too."""
DICTS = (
    "collections.defaultdict", "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict", "easydict.EasyDict",
    "addict.addict.Dict",
)  # fmt: skip
LISTS = ("collections.deque",)
BUILTINS = ("list", "dict", "tuple", "set", "frozenset", "int", "float", "str", "bool", "bytes", "complex", "slice", "range", "object")
NUMPY = ("ndarray", "core.multiarray.scalar")
DTYPES = ("Bool", *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)), "Float16", "Float32", "Float64", "Str", "Object")
CORES = ("core.", "_core.")  # its old and new place
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
OTHERS = (
    "argparse.Namespace", "types.SimpleNamespace", "copyreg._reconstructor", "datetime.datetime", "datetime.date", "datetime.time",
    "datetime.timedelta", "datetime.timezone", "uuid.UUID", "decimal.Decimal", "fractions.Fraction", "torch.torch_version.TorchVersion",
)  # fmt: skip


def harmless() -> list[Any]:
    """For ``torch.serialization.safe_globals``: stand-ins of ours under the names of what a training program keeps beside its weights."""
    nothing = [
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in BUILTINS if f"{name}" not in ("set", "complex")),
        *(f"numpy.{name.replace('core.', core)}" for core in CORES for name in NUMPY),
        *(f"numpy.dtypes.{name}DType" for name in DTYPES),
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in PATHS),
        *OTHERS,
    ]
    numpys = [(AsKind, "numpy.dtype"), *((AsArray, f"numpy.{core}multiarray._reconstruct") for core in CORES)]
    return [*numpys, *((AsDict, name) for name in DICTS), *((AsList, name) for name in LISTS), *((AsNothing, name) for name in nothing)]
