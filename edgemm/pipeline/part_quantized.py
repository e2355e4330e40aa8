"""A model quantized in part: the same Q/DQ graph with some of its layers back in float, run on the target on rows that decide.

What guards and ``inspect --sensitivity`` share; whatever is tried is a cached stage, so that one finds what the other did.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgemm.box.measuring.candidate import Candidate
from edgemm.contracts import onnx_file
from edgemm.contracts.answers import Answers
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.report import Measurement
from edgemm.pipeline import answers as answering
from edgemm.pipeline.answers import DECISION_ROWS
from edgemm.pipeline.job import Job, samples
from edgemm.store.artifact import Artifact

if TYPE_CHECKING:
    from edgemm.graph.branches import Branches

MOST_LAYERS = 16  # pieces of one branch that are told apart; neighbours beyond that are joined
LEAST_LIMIT = 0.1  # a limit of 0 counts as so many points where losses of several outputs are set against each other
NOISE_SAMPLES = 8  # samples on which a piece's noise at the outputs is measured
SILENT_DB = 200.0  # noise of a piece that changes nothing; its opposite: of one that makes outputs infinite


@dataclass(frozen=True)
class Alone:
    """What one branch alone in INT8 does.

    Attributes:
        lost: Output -> accuracy lost on the target.
        noise_db: How far the worst output's error lies below its signal.
    """

    branch: str
    lost: Mapping[str, Measurement]
    noise_db: float

    def proved(self, limits: Mapping[str, float]) -> float:
        """The most that any output's interval proves to be lost, 0 where none does."""
        edges = {name: m.value if m.low is None else m.low for name, m in self.lost.items()}
        points = {name: m.per_point or 1.0 for name, m in self.lost.items()}
        shares = (max(0.0, edge) / max(limits.get(name, points[name]), LEAST_LIMIT * points[name]) for name, edge in edges.items())
        return max(shares, default=0.0)


@dataclass(frozen=True)
class Partial:
    """One Q/DQ graph on one target.

    Attributes:
        job: The run on the model that was quantized.
        floats: The graph that was quantized.
        quantized: That graph with Q/DQ.
        deployment: How that runs on the target; its model is ``quantized``'s.
        original: The run on the model that accuracy is held against, and its float graph.
        unquantized: What is meant by everything in float where ``floats`` holds Q/DQ itself (training put it there); None = ``floats``.
    """

    job: Job
    floats: Artifact
    quantized: Artifact
    deployment: Deployment
    original: tuple[Job, Artifact]
    unquantized: Artifact | None = None
    _known: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def target(self) -> str:
        """Name of the target."""
        return self.deployment.target

    @cached_property
    def form(self) -> str:
        """What the quantized graph is in, as notes call it: ``INT8``, ``w4``, ``INT8 and w4``; INT8 where nothing of it is quantized."""
        words = onnx_file.read(self.quantized.main).precision_words
        return " and ".join(word.upper() if word == "int8" else word for word in words) or "INT8"

    def holding(self, quantized: Artifact) -> Partial:
        """The same with another Q/DQ graph of the same float one."""
        return replace(self, quantized=quantized, deployment=self.deployment.holding(quantized.main))

    @cached_property
    def split(self) -> str:
        """Where decisions are taken; "" where there are no rows for it."""
        return answering.decision_split(self.job.dataset)[0] if self.job.data is not None else ""

    @cached_property
    def branches(self) -> Branches:
        """Of the float graph."""
        from edgemm.graph import files
        from edgemm.graph.branches import find_branches

        return find_branches(files.frame(self.floats.main), self.job.card)

    @cached_property
    def layers(self) -> dict[str, list[str]]:
        """Branch -> names of its INT8 layers, or of what else reads its pairs where no layer does (a fusion's Concat); only branches with
        pairs.
        """
        from edgemm.graph import files
        from edgemm.graph.back_to_float import int8_layers, quantized_readers

        quantized = files.frame(self.quantized.main)
        layers, readers = self._by_branch(int8_layers(quantized)), self._by_branch(quantized_readers(quantized))
        return {branch: layers.get(branch) or readers[branch] for branch in self.branches.names() if branch in readers}

    def _by_branch(self, names: Iterable[str]) -> dict[str, list[str]]:
        by_branch: dict[str, list[str]] = {}
        for name in names:
            if name in self.branches.of_node:
                by_branch.setdefault(self.branches.of_node[name], []).append(name)
        return by_branch

    @cached_property
    def modules(self) -> dict[str, str]:
        """INT8 layer -> the module it is in torch, where the exporter told and no other layer is in the same one; else its node."""
        from edgemm.graph import files
        from edgemm.graph.exporter_leftovers import SCOPES

        layers = [name for names in self.layers.values() for name in names]
        scopes = {
            node.name: prop.value for node in files.frame(self.floats.main).graph.node for prop in node.metadata_props if prop.key == SCOPES
        }
        inner = {name: str((ast.literal_eval(scopes[name]) or [name])[-1]) for name in layers if name in scopes}
        shared = Counter(inner.values())
        return {name: inner[name] if shared[inner.get(name, "")] == 1 else name for name in layers}

    @cached_property
    def weights(self) -> dict[str, int]:
        """INT8 layer -> how many weights it has."""
        from edgemm.graph import files
        from edgemm.graph.packed_weights import packed_sizes

        frame = files.frame(self.quantized.main)
        graph, packed = frame.graph, packed_sizes(frame)
        sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer if len(tensor.dims) > 1}
        dequantized = {node.output[0]: sizes.get(node.input[0], 0) for node in graph.node if node.op_type == "DequantizeLinear"}
        layers = {name for names in self.layers.values() for name in names}
        return {
            node.name: max(packed.get(node.name, 0), *(dequantized.get(name, 0) for name in node.input), 0)
            for node in graph.node
            if node.name in layers
        }

    def nodes(self, *branches: str) -> list[str]:
        """Names of all nodes of some branches that quantizing may touch."""
        return [name for name, owner in self.branches.of_node.items() if owner in branches and name not in self.branches.frontend]

    def but(self, *branches: str) -> list[str]:
        """Names of all nodes but those of some branches."""
        return self.nodes(*(name for name in self.branches.names() if name not in branches))

    def graph(self, nodes: Iterable[str]) -> Artifact:
        """The graph with ``nodes`` in float; the float graph itself where these are all."""
        floating = sorted(set(nodes))
        if not floating:
            return self.quantized
        if set(floating) >= set(self.but()):
            return self.unquantized or self.floats
        if (key := f"graph {floating}") in self._known:
            return cast("Artifact", self._known[key])

        def make(scratch: Path) -> Path:
            from edgemm.graph import files
            from edgemm.graph.back_to_float import revert

            return files.save(revert(files.load(self.quantized.main), files.load(self.floats.main), floating), scratch / "model.onnx")

        facts = {"quantized": self.quantized.folder.name, "floats": self.floats.folder.name, "nodes": floating}
        artifact = self._known[key] = self.job.stage(f"revert {self.target}", facts, make, steps=(), targets=(), packages=("onnx",))
        return artifact

    def answers(self, nodes: Iterable[str] = (), options: Mapping[str, Any] | None = None) -> Answers:
        """What the target answers on the deciding rows with ``nodes`` in float, with the truth.

        Args:
            options: Other runtime options than the graph's own.
        """
        model = self.graph(nodes)
        deployment = self.deployment.holding(model.main)
        candidate = Candidate(f"{self.target} int8", "bundle", deployment if options is None else deployment.running(options))
        return answering.answers(self.job, candidate, model.folder.name, self.split, limit=DECISION_ROWS)

    def lost(self, nodes: Iterable[str] = (), options: Mapping[str, Any] | None = None) -> dict[str, Measurement]:
        """Output -> accuracy lost against the original on the deciding rows; arguments as in ``answers``."""
        key = f"lost {sorted(set(nodes))} {self.deployment.runtime_options if options is None else options}"
        if key not in self._known:
            before = answering.original_answers(*self.original, self.split, limit=DECISION_ROWS)
            self._known[key] = answering.lost(self.job, before, self.answers(nodes, options))
        return dict(self._known[key])

    def noise(self, pieces: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Piece -> how far the worst output's error lies below its signal, in dB, with that piece alone in INT8.

        Computed by ONNX Runtime on the graph as it stands, on a few samples: no target compiles it.
        """

        def noise_db() -> dict[str, float]:
            from edgemm.graph import files, parity
            from edgemm.graph.back_to_float import body, revert

            floats, quantized, feeds = files.load(self.floats.main), files.load(self.quantized.main), samples(self.job, NOISE_SAMPLES)
            everything = body(self.branches)
            expected, _ = parity.run_reference(revert(quantized, floats, everything), feeds)
            measured = {}
            for number, (name, nodes) in enumerate(pieces.items()):
                self.job.show(name, number / len(pieces))
                alone = revert(quantized, floats, set(everything) - set(nodes))
                got, _ = parity.run_reference(alone, feeds)
                measured[name] = max(-SILENT_DB, min(SILENT_DB, parity.worst(parity.compare(expected, got)).sqnr_db))
            return measured

        facts = {
            "quantized": self.quantized.folder.name,
            "floats": self.floats.folder.name,
            "pieces": {name: sorted(nodes) for name, nodes in pieces.items()},
            "data": self.job.fingerprint,
        }
        packages = ("onnx", "onnxruntime")
        return self.job.value(dict[str, float], f"noise {self.target}", facts, noise_db, steps=(), targets=(), packages=packages)

    def pieces(self, branch: str) -> dict[str, list[str]]:
        """A branch's INT8 layers, each with what follows it; neighbours joined where they are many."""
        from edgemm.graph.back_to_float import groups

        return groups(branch, self.branches, self.layers.get(branch, []), MOST_LAYERS)

    def alone(self, limits: Mapping[str, float] | None = None) -> list[Alone]:
        """Each branch alone in INT8, worst first: by what the paired intervals prove to be lost (as a share of its limit, where
        ``limits`` tells one), then by noise.

        Alone in INT8 and not alone in float, since then no other branch's losses hide what this one costs, and since the answer does not
        depend on what else a recipe quantizes: ``inspect --sensitivity`` and the guards ask the same.
        """
        noise = self.noise({branch: self.nodes(branch) for branch in self.layers}) if self.layers else {}
        entries = [Alone(branch, self.lost(self.but(branch)), noise[branch]) for branch in self.layers]
        return sorted(entries, key=lambda entry: (-entry.proved(limits or {}), entry.noise_db))
