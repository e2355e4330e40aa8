"""Weights as files: safetensors, and .pt/.pth as far as they hold nothing but tensors."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]  # public in the documentation, not in the stubs

from edgemm.errors import CheckpointError

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
NESTED = ("state_dict", "model_state_dict", "model", "module", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")  # left by DataParallel, torch.compile, Lightning
LONGEST = 240  # characters of another package's message that are passed on
SHOWN = 5  # names listed of each kind of misfit


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a .safetensors file, or from a .pt/.pth/.ckpt/.bin that holds nothing but tensors.

    A state dict may be nested under ``state_dict`` or ``model``.

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
            return load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as err:
            raise _damaged(path, err) from err
    if path.suffix not in PICKLES:
        raise CheckpointError(
            f"'{path}' is refused: '{path.suffix}' is not a format for weights that is known to hold data only.",
            why="a pickle can run any code when it is opened." if path.suffix in (".pkl", ".pickle", ".joblib") else "",
            fix="save the weights with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors').",
        )
    return _state_dict(_unpickled(path), path)


def fit(module: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load ``state`` into ``module``: every name there, every shape equal.

    Raises:
        CheckpointError: They do not fit; lists the first wrong shapes, missing and unexpected names.
    """
    own = module.state_dict()
    state = _without_prefix(dict(state), set(own))
    tied = _tied(own)
    missing = [name for name in own if name not in state and not tied[name] & set(state) and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name}: the file has {tuple(state[name].shape)}, the factory builds {tuple(own[name].shape)}"
        for name in own
        if name in state and not _same_shape(own[name], state[name])
    ]
    if missing or unexpected or shapes:
        lists = [_listing("shapes differ", shapes), _listing("missing", missing), _listing("unexpected", unexpected)]
        raise CheckpointError(
            f"the weights in '{path}' do not fit the model that the factory builds.",
            why="; ".join(text for text in lists if text) + ".",
            fix="set the card's kwargs to those the weights were trained with, or name the weights of this model.",
        )
    module.load_state_dict(state, strict=False)


def write_state(module: nn.Module, path: Path) -> None:
    """Write a module's tensors as safetensors; of tied weights one is written, and ``fit`` finds the others.

    Raises:
        CheckpointError: Its state holds something else than tensors.
    """
    state = module.state_dict()
    odd = next((name for name, value in state.items() if not isinstance(value, torch.Tensor)), None)
    if odd is not None:
        raise CheckpointError(
            f"'{odd}' of the model's state is no tensor.", why="safetensors holds tensors only.", fix="keep such state out of state_dict()."
        )
    tied, kept = _tied(state), dict[str, torch.Tensor]()
    for name, value in state.items():
        if not tied[name] & set(kept):
            kept[name] = value.detach().to("cpu", copy=True).contiguous()
    save_file(kept, path)
    path.chmod(0o644)  # safetensors leaves it to its owner alone


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a foreign pickle protocol is no news: it is refused or it is data
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        if "Unsupported" not in str(err) and "unsupported" not in str(err) and "GLOBAL" not in str(err):
            raise _damaged(path, err) from err
        raise CheckpointError(
            f"'{path}' is refused: it is a pickle that holds more than tensors.",
            why=f"opening it could run code; {_first_line(err)}",
            fix="in the program that wrote it, save model.state_dict() alone, best with safetensors.torch.save_file.",
        ) from err
    except (RuntimeError, EOFError, OSError, ValueError, AttributeError, KeyError, IndexError) as err:
        raise _damaged(path, err) from err


def _state_dict(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    for _ in range(2):  # e.g. {"state_dict": {"model": {...}}}
        inner = next((loaded[key] for key in NESTED if isinstance(loaded.get(key), dict)), None) if isinstance(loaded, dict) else None
        loaded = loaded if inner is None else inner
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        held = ", ".join(map(str, list(loaded)[:SHOWN])) if isinstance(loaded, dict) else type(loaded).__name__
        raise CheckpointError(
            f"'{path}' holds no state dict.",
            why=f"it holds {held or 'nothing'}.",
            fix="save model.state_dict(), by itself or under the key 'state_dict'.",
        )
    return {str(name): value for name, value in loaded.items()}


def _without_prefix(state: dict[str, torch.Tensor], own: set[str]) -> dict[str, torch.Tensor]:
    for _ in range(len(PREFIXES)):
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in state) and not own & set(state):
                state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _tied(state: Mapping[str, torch.Tensor]) -> dict[str, set[str]]:
    """For each name the names of the tensors that are the very same memory (tied weights)."""
    groups: dict[tuple[Any, ...], set[str]] = {}
    keys: dict[str, tuple[Any, ...]] = {}
    for name, tensor in state.items():
        uninitialised = isinstance(tensor, UninitializedTensorMixin)
        empty = uninitialised or tensor.device.type == "meta" or tensor.numel() == 0
        keys[name] = (name,) if empty else (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        groups.setdefault(keys[name], set()).add(name)
    return {name: groups[key] - {name} for name, key in keys.items()}


def _same_shape(own: torch.Tensor, loaded: torch.Tensor) -> bool:
    return isinstance(own, UninitializedTensorMixin) or own.shape == loaded.shape


def _listing(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}" if names else ""


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
