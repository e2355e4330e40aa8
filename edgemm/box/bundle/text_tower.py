"""The text tower that a bundle may hold: opened where there are new words, each sentence read once, and closed again.

``words.json`` says how a text becomes token ids and what the words of each output are, ``words.tokenizer.json`` is its tokenizer,
``targets/<t>/words/model.onnx`` its graph: one text in, its vector out.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.deployment import deploy
from edgemm.box.bundle.opened import Bundle
from edgemm.contracts.card import Card, Input
from edgemm.contracts.modality import of
from edgemm.contracts.word_file import Prompts
from edgemm.data.word_vectors import averaged
from edgemm.errors import BundleError, RunError
from edgemm.store import cache, json_text
from edgemm.store.artifact import sha256_of, write_bytes

FORMAT = 1
RECORD, TOKENIZER = "words.json", "words.tokenizer.json"
KEPT = 4096  # sentences in the cache
LEAST_ALIKE = 0.99  # cosine between a word's vector here and in the workshop; eight bits a weight cost a thousandth of it


def beside_graph(target: str, name: str) -> str:
    """Where a file of a target's graph stands in the bundle."""
    return f"targets/{target}/words/{name}"


def described(card: Card) -> dict[str, Any]:
    """The text's entry in ``words.json``, of the tower's own card."""
    spec = next(iter(card.inputs.values()))
    return {**spec.options, "tokenizer": TOKENIZER}


@dataclass(frozen=True)
class Asked:
    """What the words of an output are held against.

    Attributes:
        vector: The output with the vectors.
        scale, bias: A logit is ``scale * cosine + bias``.
        words: Those it was compressed with.
        vectors: float32 (words, d), theirs as the workshop had them.
    """

    vector: str
    scale: float
    bias: float
    words: Prompts
    vectors: np.ndarray


class TextTower:
    """Reads sentences on the box.

    Args:
        target: Where it runs; a bundle that was not made for it lends the graph of another.

    Raises:
        BundleError: The bundle's record cannot be read.
    """

    def __init__(self, bundle: Bundle, target: str) -> None:
        self._bundle, self._target = bundle, target
        try:
            plain = json_text.loads((bundle.folder / RECORD).read_bytes())
            spec = Input("text", "text", plain["input"])
            self.asked = {name: _asked(entry) for name, entry in plain["outputs"].items()}
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise BundleError(f"{bundle.path}: {RECORD} cannot be read.", why=str(err), fix="pack the bundle again.") from err
        self._text = of(spec, folder=bundle.folder)
        digests = [bundle.manifest["files"][name]["sha256"] for name in (RECORD, TOKENIZER, self._graph())]
        self._cached = cache.root() / "sentences" / f"{sha256_of(digests)[:32]}.npz"
        self._known = self._remembered()
        self._is_proved = False

    @staticmethod
    def is_in(bundle: Bundle) -> bool:
        """Whether a bundle holds one."""
        return RECORD in bundle.files

    def vectors(self, output: str, words: Prompts, where: str) -> np.ndarray:
        """A vector of length 1 for each word: float32 (words, d).

        Args:
            where: The words stand, for errors.

        Raises:
            CardError: Two words have the same vector.
            RunError: The tower reads otherwise here than where the bundle was made.
            TargetError: The runtime refuses it.
        """
        self._read([*self._to_prove(output), *(prompt for prompts in words.values() for prompt in prompts)])
        self._prove(output)
        return averaged(words, np.stack([self._known[prompt] for prompts in words.values() for prompt in prompts]), where)

    def _to_prove(self, output: str) -> list[str]:
        return [] if self._is_proved else [prompt for prompts in self.asked[output].words.values() for prompt in prompts]

    def _prove(self, output: str) -> None:
        """Hold the words that the bundle came with against what the workshop had of them."""
        if self._is_proved:
            return
        asked = self.asked[output]
        sentences = np.stack([self._known[prompt] for prompts in asked.words.values() for prompt in prompts])
        alike = (averaged(asked.words, sentences, RECORD) * asked.vectors).sum(axis=1)
        if float(alike.min()) < LEAST_ALIKE:
            word = list(asked.words)[int(alike.argmin())]
            raise RunError(
                f"the text tower reads '{word}' otherwise on this box: its vector is alike by {alike.min():.3f}.",
                why=f"{LEAST_ALIKE} or more were to be expected of the graph for {self._target}.",
                fix="check the bundle: edgemm verify; or run another of its targets.",
            )
        self._is_proved = True

    def _read(self, prompts: Sequence[str]) -> None:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if not new:
            return
        with deploy(self._bundle, self._target).open_part(self._bundle.there(self._graph())) as session:
            name = session.inputs[0].name
            for prompt in new:
                vector = np.ravel(next(iter(session.run({name: self._text.decode(prompt, Path())[None]}).values()))).astype(np.float32)
                self._known[prompt] = vector / max(float(np.linalg.norm(vector)), 1e-12)
        self._remember()

    def _graph(self) -> str:
        """The target's own graph, else that of another, which the float model's runtime opens as well."""
        names = [beside_graph(target, "model.onnx") for target in (self._target, *self._bundle.targets())]
        return next(name for name in names if name in self._bundle.files)

    def _remembered(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self._cached, allow_pickle=False) as file:
                return dict(zip(map(str, file["prompts"]), file["vectors"], strict=True))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return {}

    def _remember(self) -> None:
        content, kept = io.BytesIO(), list(self._known.items())[-KEPT:]
        np.savez(content, prompts=np.array([prompt for prompt, _ in kept]), vectors=np.stack([vector for _, vector in kept]))
        with suppress(OSError):  # a box whose file system is read-only reads its words anew at every start
            self._cached.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._cached, content.getvalue())


def _asked(entry: Mapping[str, Any]) -> Asked:
    vectors = np.asarray(entry["vectors"], np.float32)
    return Asked(str(entry["vector"]), float(entry["scale"]), float(entry["bias"]), dict(entry["words"]), vectors)
