"""``factory: hf:<AutoClass>``: a Hugging Face model from a local folder or config.json, never from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from torch import nn

from edgemm.contracts.card import Card
from edgemm.errors import CardError, CheckpointError, nearest
from edgemm.workshop.models import folder_weights
from edgemm.workshop.models.checkpoint.files import config_path
from edgemm.workshop.models.layers.backbone import quietly


def build(card: Card, *, weights: bool = True) -> nn.Module:
    """Build ``transformers.<AutoClass>``.

    The configuration is ``kwargs.config`` (a folder, or a config.json) or, without it, the folder that ``weights`` names; other kwargs
    override its entries. Where ``weights`` is a folder its safetensors are read here too; ``notes_of_weights`` says what was left out, and
    which head they lack.

    Raises:
        CardError: No such class, no configuration, or one that needs code of its own.
        CheckpointError: The folder holds no safetensors, or they do not fit.
    """
    kind = _auto_class(card)
    folder = card.weights_path if card.weights_path and card.weights_path.is_dir() else None
    config, unused = _config(card, folder)
    try:
        if not (weights and folder):
            held, model = None, kind.from_config(config, trust_remote_code=False)
        else:
            with quietly():
                held = folder_weights.read(kind, folder, config=config)
            model = held.model
    except (OSError, ValueError, RuntimeError, KeyError) as err:
        raise CheckpointError(
            f"'{card.factory}' cannot be built from '{folder or card.kwargs.get('config')}'.",
            why=f"{' '.join(str(err).split())[:300]}",
            fix="the folder needs config.json and *.safetensors of a model type that this transformers knows; nothing is downloaded.",
        ) from err
    if unused:
        raise CardError(
            f"kwargs.{next(iter(unused))} is no entry of {type(config).__name__}.", fix=nearest(next(iter(unused)), config.to_dict())
        )
    if held is not None and folder is not None:
        model.notes_of_weights = folder_weights.require_body(folder, held)
    return model


def _auto_class(card: Card) -> Any:
    name = (card.factory or "").partition(":")[2]
    classes = [entry for entry in dir(transformers) if entry.startswith("AutoModel")]
    if name not in classes:
        raise CardError(f"factory '{card.factory}': transformers has no '{name}'.", fix=nearest(name, classes))
    return getattr(transformers, name)


def _config(card: Card, folder: Path | None) -> tuple[Any, dict[str, Any]]:
    path = config_path(card)
    if path is None or not path.is_file():
        raise CardError(
            f"factory '{card.factory}' has no configuration" + (f" at '{path}'." if path else "."),
            fix="name a folder with config.json as `weights:`, or as `kwargs: {config: <folder or file>}`.",
        )
    overrides = {key: value for key, value in card.kwargs.items() if key != "config"}
    try:
        config, unused = transformers.AutoConfig.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, return_unused_kwargs=True, **overrides
        )
    except (OSError, ValueError, KeyError) as err:
        raise CardError(
            f"'{path}' is not a configuration that transformers can use.",
            why=" ".join(str(err).split())[:300],
            fix="models that need code of their own (auto_map) want a `module:callable` factory instead.",
        ) from err
    return config, {key: value for key, value in unused.items() if key in overrides}
