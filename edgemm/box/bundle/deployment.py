"""A bundle on one target of this machine: all that running it takes, asked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemm.box.bundle.opened import Bundle
from edgemm.box.bundle.parts import SplitFiles
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.target import Session
from edgemm.errors import BundleError


@dataclass(frozen=True)
class ServedBundle:
    """What runs, and how.

    Attributes:
        whole: The graph as a whole, the target's own or the float one where the bundle was not made for it, with the runtime options that
            hold on this machine.
        split: The graph in parts; None where the bundle holds none.
        standins: What replaces a missing input in ``split``: cut tensor -> array for one sample; None where nobody knows.
    """

    whole: Deployment
    split: SplitFiles | None
    standins: Mapping[str, np.ndarray] | None

    def open_part(self, graph: Path) -> Session:
        """One graph of ``split``, with the options that hold for parts.

        Raises:
            TargetError: The runtime refuses it.
        """
        target = self.whole.plugin()
        return target.open(graph, **target.without_unsafe(self.whole.runtime_options))


def deploy(bundle: Bundle, name: str) -> ServedBundle:
    """A bundle on the target ``name``: as compressed where it was made for it, else its float model with the target's own choices.

    Raises:
        MissingExtra: The target's runtime is not installed here.
    """
    if name in bundle.targets():
        return ServedBundle(bundle.deployment_here(name)[0], *_parts(bundle, name))
    return ServedBundle(Deployment(name, bundle.model), *_parts(bundle, None))


def deploy_float(bundle: Bundle) -> ServedBundle:
    """Its float model in ONNX Runtime, which every other form is held against.

    Raises:
        BundleError: A slim bundle goes without it.
    """
    return ServedBundle(Deployment("onnxruntime", bundle.model), *_parts(bundle, None))


def _parts(bundle: Bundle, target: str | None) -> tuple[SplitFiles | None, Mapping[str, np.ndarray] | None]:
    try:
        return bundle.split(target), bundle.standins(target)
    except BundleError:
        return None, None
