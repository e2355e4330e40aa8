"""BERT, MiniLM, MPNet and their like, alone or as sentence-transformers packs them: with pooling and normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemm.errors import CardError
from edgemm.workshop.models.hf_folder import Family, Folder, Pool, Side

MODEL_TYPES = ("bert", "roberta", "distilbert", "mpnet", "xlm-roberta", "electra", "camembert", "albert")
LIBRARY = "sentence_transformers"
COUNTED = ("roberta", "xlm-roberta", "mpnet", "camembert")
"""Their positions are counted from behind the padding's id."""
POOLS: Mapping[str, Pool] = {"cls": "first", "mean": "mean", "mean_tokens": "mean", "cls_token": "first", "max": "max", "max_tokens": "max"}


class Sentences(Family):
    """Without sentence-transformers' files the mean over the words."""

    def sides(self, folder: Folder) -> Mapping[str, Side]:
        config = folder.config
        least = int(config.get("pad_token_id") or 0) + 1 if config["model_type"] in COUNTED else 0
        modules = folder.json("modules.json", missing={}) or []
        pool, dense, is_unit = _behind(folder, modules)
        options = folder.text(config, least=least)
        return {"text": Side("text", options, takes="input_ids", pool=pool, dense=dense, is_unit=is_unit)}


def _behind(folder: Folder, modules: list[dict[str, Any]]) -> tuple[Pool, tuple[str, ...], bool]:
    """Pooling, linear layers, normalisation."""
    pool: Pool = "mean"
    dense: list[str] = []
    is_unit = False
    for entry in modules:
        package, _, kind = str(entry.get("type", "")).rpartition(".")
        if package.partition(".")[0] != LIBRARY:
            raise CardError(
                f"'{folder.path / 'modules.json'}' names code of its own: {entry.get('type')}.",
                why=f"it would be fetched and run; what is known here are modules of {LIBRARY}.",
                fix="take a model without it, or bring the code as a module of yours, and name it in a card: factory: module:callable.",
            )
        match kind:
            case "Pooling":
                pool = _pool(folder, folder.json(f"{entry['path']}/config.json"))
            case "Dense":
                dense.append(str(entry["path"]))
            case "Normalize":
                is_unit = True
            case "Transformer":
                pass
            case _:
                raise CardError(
                    f"'{folder.path / 'modules.json'}' names the module '{kind}'.",
                    why="known are Transformer, Pooling, Dense and Normalize.",
                    fix="take a model without it, or bring a module of your own: factory: module:callable.",
                )
    return pool, tuple(dense), is_unit


def _pool(folder: Folder, said: dict[str, Any]) -> Pool:
    asked = [key.removeprefix("pooling_mode_") for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
    asked += [said["pooling_mode"]] if isinstance(said.get("pooling_mode"), str) else []
    if len(asked) == 1 and asked[0] in POOLS:
        return POOLS[asked[0]]
    raise CardError(
        f"'{folder.path}' pools by {' and '.join(asked) or 'nothing'}.",
        why=f"known is one of {', '.join(sorted(set(POOLS)))}.",
        fix="take a model that pools so, or write `pool: mean` in a card of your own, and compare.",
    )
