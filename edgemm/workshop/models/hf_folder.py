"""A Hugging Face folder read for what a card must say of it: JSON alone, no transformers. What a family of models is stands here too."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from edgemm.contracts import plugins
from edgemm.errors import CardError, nearest
from edgemm.store import json_text
from edgemm.workshop.models.foreign.reading import translated
from edgemm.workshop.models.foreign.translation import Translation

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
TOKENS = 128  # length of a text where the model could take more; edit the card for longer ones
IMAGE_SIZE = 224
RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box")
"""What pillow's numbers mean."""
BICUBIC = ("CLIP", "Siglip", "Bit", "ConvNext")  # processors that resize so where the folder does not say
WARPED = 384  # from this size on ConvNeXt's pictures are stretched instead of cropped, as its processor does
Pool = Literal["pooler", "first", "mean", "max", "last"]


@dataclass(frozen=True)
class Side:
    """One tower of a folder: what it takes, and how its vector is made.

    Attributes:
        options: Of the card's input.
        takes: The parameter of ``forward``.
        tower, projection: Submodules of the whole model: what is run, and what its pooled vector goes through ("" = the whole, nothing).
        pool: How its states become one vector.
        dense: Folders of linear layers behind that, as sentence-transformers has them.
        is_unit: The vector is brought to length 1.
        hides_padding: Padding is hidden from the other words.
        is_masked: The card's input brings a mask.
        has_channel: A channel axis is put before the axes of the sample.
    """

    modality: str
    options: Mapping[str, Any]
    takes: str
    tower: str = ""
    projection: str = ""
    pool: Pool = "pooler"
    dense: tuple[str, ...] = ()
    is_unit: bool = False
    hides_padding: bool = True
    has_channel: bool = False


class Family(Protocol):
    """Models that are read in one way. ``MODEL_TYPES`` at the top of a leaf names what their configurations call them.

    Attributes:
        scale, bias: Parameters of the whole model that make logits of cosines: ``exp(scale) * cosine + bias``; "" = there is none.
    """

    scale: ClassVar[str] = ""
    bias: ClassVar[str] = ""

    def sides(self, folder: Folder) -> Mapping[str, Side]:
        """Input name -> tower, in the card's order.

        Raises:
            CardError: The folder lacks a file, or says something that cannot be.
        """
        ...

    def adapted(self, model: Any, shape: tuple[int, ...]) -> Any:
        """The tower, made ready for samples of ``shape``.

        Raises:
            CardError: It cannot take them; does not name the input.
        """
        return model


@dataclass(frozen=True)
class Folder:
    """A folder of a model.

    Attributes:
        named: How the card names it.
    """

    path: Path
    named: str = "."

    @functools.cached_property
    def translation(self) -> Translation | None:
        """Of a folder of open_clip or timm."""
        return translated(self.path)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        return self.translation.config if self.translation else self.json(CONFIG)

    @functools.cached_property
    def processor(self) -> dict[str, Any]:
        """What is done to pictures or sound: of the one file, or of the file that says all of it."""
        if self.translation:
            return self.translation.processor
        whole = self.json("processor_config.json", missing={})
        nested = whole.get("image_processor") or whole.get("feature_extractor") or {}
        return {**nested, **self.json("preprocessor_config.json", missing={})}

    def part(self, name: str) -> dict[str, Any]:
        """The configuration of one tower of several; of a single one its own."""
        return self.config.get(name) or self.config

    def json(self, name: str, missing: dict[str, Any] | None = None) -> Any:
        """Content of a file.

        Raises:
            CardError: It cannot be read.
        """
        path = self.path / name
        if missing is not None and not path.is_file():
            return missing
        try:
            content = json_text.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise CardError(f"cannot read '{path}'.", why=f"{err}.", fix="copy the model's folder again.") from err
        return content if isinstance(content, (dict, list)) else {}

    def require_processor(self) -> dict[str, Any]:
        """``processor``.

        Raises:
            CardError: There is none.
        """
        if not self.processor:
            raise CardError(
                f"'{self.path}' does not say how its pictures or sounds are prepared.",
                why="neither preprocessor_config.json nor processor_config.json lies there.",
                fix="copy it from where the model came from: without it sizes, mean and deviation would be guesses.",
            )
        return self.processor

    def image(self, config: Mapping[str, Any], *, mean: float | list[float] = 0.5, std: float | list[float] = 0.5) -> dict[str, Any]:
        """Options of a picture, as the folder's processor makes it."""
        said = self.require_processor()
        options: dict[str, Any] = dict(zip(("height", "width"), self._size(config), strict=True))
        options["channels"] = int(config.get("num_channels", 3))
        options |= self._fit(options["height"], options["width"])
        number = said.get("resample", RESAMPLING.index("bicubic" if self._maker.startswith(BICUBIC) else "bilinear"))
        if number in range(len(RESAMPLING)) and number != RESAMPLING.index("bilinear"):
            options["resample"] = RESAMPLING[number]
        factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
        if abs(factor - 1 / 255) > 1e-9:
            options["scale"] = factor
        is_scaled = said.get("do_normalize", True)
        options["mean"] = said.get("image_mean", mean) if is_scaled else 0.0
        options["std"] = said.get("image_std", std) if is_scaled else 1.0
        return options

    def _size(self, config: Mapping[str, Any]) -> tuple[int, int]:
        said = self.processor
        crop = said.get("crop_size") if said.get("do_center_crop", "crop_size" in said) else None
        size = crop or said.get("size") or config.get("image_size") or IMAGE_SIZE
        if isinstance(size, dict):
            edge = size.get("shortest_edge", config.get("image_size") or IMAGE_SIZE)
            size = [size.get("height", edge), size.get("width", edge)]
        height, width = size if isinstance(size, list) else (size, size)
        return int(height), int(width)

    def _fit(self, height: int, width: int) -> dict[str, Any]:
        """How another aspect is met."""
        said = self.processor
        size = said.get("size")
        is_square = not self._maker.startswith(("CLIP", "Bit", "ConvNext"))
        short = size.get("shortest_edge") if isinstance(size, dict) else None if is_square else size
        if self._maker.startswith("ConvNext"):
            if height >= WARPED:
                return {}
            return {"fit": "crop", "short": int(height / said.get("crop_pct", 224 / 256))}
        if short is None or not said.get("do_resize", True):
            stretched = size.get("height", height) if isinstance(size, dict) else size or height
            if said.get("do_resize", True) and stretched != height:
                raise CardError(
                    f"'{self.path}' stretches pictures to {stretched} x {stretched} pixels and cuts {height} x {width} out of that.",
                    why="here a picture is stretched, or its centre is cut out, not both.",
                    fix="write the card by hand, with fit: crop or fit: stretch, and compare.",
                )
            return {}
        return {"fit": "crop", "short": max(int(short), height, width)}

    @property
    def _maker(self) -> str:
        """The class that prepares pictures."""
        return str(self.processor.get("image_processor_type") or self.processor.get("feature_extractor_type") or "")

    def text(self, config: Mapping[str, Any], *, tokens: int = TOKENS, least: int = 0, mask: bool = True) -> dict[str, Any]:
        """Options of a text, by the folder's tokenizer.

        Args:
            least: Positions that the model keeps for itself.

        Raises:
            CardError: There is no tokenizer.
        """
        if not (self.path / TOKENIZER).is_file():
            raise CardError(
                f"'{self.path}' has no tokenizer.",
                why=f"texts become token ids by the file {TOKENIZER}, and it does not lie there.",
                fix="copy it from where the model came from, or write it once: "
                f"transformers.AutoTokenizer.from_pretrained('{self.path.name}').save_pretrained('{self.path.name}').",
            )
        positions = int(config.get("max_position_embeddings", tokens)) - least
        most = self.json("sentence_bert_config.json", missing={}).get("max_seq_length") or positions
        options: dict[str, Any] = {"length": max(min(tokens, positions, int(most)), 1), "tokenizer": f"{self.named}/{TOKENIZER}"}
        pad = self._pad(config)
        return options | ({} if pad is None else {"pad": pad}) | ({"mask": True} if mask else {})

    def _pad(self, config: Mapping[str, Any]) -> int | None:
        """The padding that the tokenizer's own file does not name."""
        tokenizer = self.json(TOKENIZER)
        if tokenizer.get("padding"):
            return None
        said = self.json("tokenizer_config.json", missing={}) | self.json("special_tokens_map.json", missing={})
        token = said.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        added = {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or ()}
        words = tokenizer.get("model", {}).get("vocab") or {}
        number = added.get(token, words.get(token) if isinstance(words, dict) else None)
        return config.get("pad_token_id") if number is None else int(number)


def family_of(folder: Folder) -> Family | None:
    """Who reads a folder; None where nobody does."""
    kind = folder.config.get("model_type")
    name = next((name for name in plugins.names("families") if kind in plugins.constant("families", name, "MODEL_TYPES")), None)
    return plugins.find(Family, name)() if name else None


def require_family(folder: Folder) -> Family:
    """``family_of``.

    Raises:
        CardError: Nobody reads it, or it wants code of its own.
    """
    refuse_remote_code(folder)
    family = family_of(folder)
    if family is None:
        known = sorted(kind for name in plugins.names("families") for kind in plugins.constant("families", name, "MODEL_TYPES"))
        kind = folder.config.get("model_type")
        raise CardError(
            f"'{folder.path}': models of type '{kind or 'unnamed'}' are not known here.",
            why=f"known are {', '.join(known)}, and every model for classification.",
            fix=f"{nearest(str(kind), known)} Or write the card by hand: factory hf:AutoModel..., weights: <this folder>.",
        )
    return family


def text_side(source: Folder) -> Side:
    """A folder's tower for texts.

    Raises:
        CardError: It has none, or is of no known kind.
    """
    side = next((side for side in require_family(source).sides(source).values() if side.modality == "text"), None)
    if side is None:
        raise CardError(
            f"'{source.path}' has no text tower.",
            why="words need one.",
            fix="take CLIP, SigLIP, CLAP or a sentence encoder, or leave out --words.",
        )
    return side


def refuse_remote_code(folder: Folder) -> None:
    """Raises CardError where a configuration names code that would be fetched from elsewhere."""
    for name in (CONFIG, "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
        code = folder.json(name, missing={}).get("auto_map")
        if code:
            raise CardError(
                f"'{folder.path / name}' names code of its own: {', '.join(f'{key}: {value}' for key, value in code.items())}.",
                why="it would be fetched and run, and what transformers has of that type computes something else.",
                fix="bring the code as a module of yours, and name it in a card: factory: module:callable.",
            )
