"""Weights as files: safetensors, .npz, and .pt/.pth as far as they hold nothing but tensors, or arrays of numpy."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]  # public in the documentation, not in the stubs

from edgemm.errors import CheckpointError
from edgemm.workshop.models.checkpoint.harmless import AsArray, harmless

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pth.tar")  # the last by an old custom; it is none of tar's archives
DEEPEST = 4  # {"ema": {"state_dict": {...}}}
LONGEST = 240  # characters of another package's message that are passed on
SHOWN = 5  # names listed of each kind of misfit


def read_states(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Every state dict of a .safetensors or .npz file, or of a .pt/.pth/.ckpt/.bin that holds nothing but data.

    Returns:
        Where it stands in the file (``""``, ``state_dict``, ``ema.module``) -> tensors by name.

    Raises:
        CheckpointError: Missing, truncated, of another kind, or holding code; code in it is never run.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no weights at '{path}'.",
            why="the card's `weights:` is relative to the card's folder." if not path.exists() else "it is a folder.",
            fix="mend `weights:`, or remove it and train the model first: edgemm train CARD -d DATA -o DIR.",
        )
    if path.suffix == ".safetensors":
        try:
            return {"": load_file(path)}
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as err:
            raise _damaged(path, err) from err
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {"": {name: _native(value) for name, value in arrays.items() if value.dtype.kind in "fib"}}
        except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as err:
            raise _damaged(path, err) from err
    if not path.name.endswith(PICKLES):
        raise CheckpointError(
            f"'{path}' is refused: '{path.suffix}' is not a format for weights that is known to hold data only.",
            why="a pickle can run any code when it is opened." if path.suffix in (".pkl", ".pickle", ".joblib") else "",
            fix="save the weights with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors').",
        )
    return _states(_unpickled(path), path)


def write_state(module: nn.Module, path: Path) -> None:
    """Write a module's tensors as safetensors; of tied weights one is written, and ``fitting.fit`` finds the others.

    Raises:
        CheckpointError: Its state holds something else than tensors.
    """
    state = module.state_dict()
    odd = next((name for name, value in state.items() if not isinstance(value, torch.Tensor)), None)
    if odd is not None:
        raise CheckpointError(
            f"'{odd}' of the model's state is no tensor.", why="safetensors holds tensors only.", fix="keep such state out of state_dict()."
        )
    tied, kept = tied_names(state), dict[str, torch.Tensor]()
    for name, value in state.items():
        if not tied[name] & set(kept):
            kept[name] = value.detach().to("cpu", copy=True).contiguous()
    save_file(kept, path)
    path.chmod(0o644)  # safetensors leaves it to its owner alone


def tied_names(state: Mapping[str, torch.Tensor]) -> dict[str, set[str]]:
    """For each name the names of the tensors that are the very same memory (tied weights)."""
    groups: dict[tuple[Any, ...], set[str]] = {}
    keys: dict[str, tuple[Any, ...]] = {}
    for name, tensor in state.items():
        uninitialised = isinstance(tensor, UninitializedTensorMixin)
        empty = uninitialised or tensor.device.type == "meta" or tensor.numel() == 0
        keys[name] = (name,) if empty else (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        groups.setdefault(keys[name], set()).add(name)
    return {name: groups[key] - {name} for name, key in keys.items()}


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(harmless()):
            warnings.simplefilter("ignore")  # a foreign pickle protocol is no news: it is refused or it is data
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        if "Unsupported" not in str(err) and "unsupported" not in str(err) and "GLOBAL" not in str(err):
            raise _damaged(path, err) from err
        named = re.search(r"GLOBAL ([\w.]+)", str(err))
        raise CheckpointError(
            f"'{path}' is refused: it is a pickle that holds more than tensors{f': {named[1]}' if named else ''}.",
            why=f"opening it could run code; {_first_line(err)}",
            fix="in the program that wrote it, save model.state_dict() alone, best with safetensors.torch.save_file.",
        ) from err
    except (RuntimeError, EOFError, OSError, ValueError, AttributeError, KeyError, IndexError, TypeError) as err:
        if "TorchScript" in str(err):
            raise CheckpointError(
                f"'{path}' is a TorchScript program, not weights.",
                why="opening it could run code.",
                fix="if you trust it, write its weights once, in Python: "
                f"torch.save(torch.jit.load('{path.name}', 'cpu').state_dict(), 'weights.pt'), and name weights.pt in the card.",
            ) from err
        raise _damaged(path, err) from err


def _states(loaded: Any, path: Path) -> dict[str, dict[str, torch.Tensor]]:
    states = dict(_walk(loaded, (), _tensor)) or dict(_walk(loaded, (), _of_numpy))
    if not states:
        held = ", ".join(map(str, list(loaded)[:SHOWN])) if isinstance(loaded, dict) else type(loaded).__name__
        raise CheckpointError(
            f"'{path}' holds no state dict.",
            why=f"it holds {held or 'nothing'}.",
            fix="save model.state_dict(), by itself or under the key 'state_dict'.",
        )
    return states


def _walk(node: Any, keys: tuple[str, ...], read: Callable[[Any], torch.Tensor | None]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Dicts with tensors under names; an optimizer's stand under numbers."""
    if not isinstance(node, dict) or len(keys) > DEEPEST:
        return
    named = {name: value for name, value in node.items() if isinstance(name, str)}
    tensors = {name: tensor for name, value in named.items() if (tensor := read(value)) is not None}
    if tensors:
        yield ".".join(keys), tensors
    for name, value in named.items():
        yield from _walk(value, (*keys, name), read)


def _native(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))


def _tensor(value: Any) -> torch.Tensor | None:
    return value if isinstance(value, torch.Tensor) else None


def _of_numpy(value: Any) -> torch.Tensor | None:
    return torch.from_numpy(value.content) if isinstance(value, AsArray) and value.content is not None else None


def _damaged(path: Path, err: BaseException) -> CheckpointError:
    return CheckpointError(
        f"'{path}' is truncated or damaged ({path.stat().st_size:,} bytes).",
        why=_first_line(err),
        fix="copy or save it again; compare its size or hash with the original.",
    )


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    unsupported = [line for line in lines if "nsupported" in line]
    return _shortened((unsupported or lines or [type(err).__name__])[0])


def _shortened(line: str) -> str:
    """At most ``LONGEST`` characters: whole sentences where there are any, else whole words and an ellipsis."""
    if len(line) <= LONGEST:
        return line
    head = line[:LONGEST]
    end = max(head.rfind(mark) for mark in (". ", "! ", "? "))
    return head[: end + 1] if end > LONGEST // 4 else f"{head.rpartition(' ')[0] or head} ..."
