"""A model on a target: which file, which runtime, and how both are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgemm.contracts import plugins
from edgemm.contracts.target import Session, Target


@dataclass(frozen=True)
class Deployment:
    """What is opened, by whom, and how.

    Attributes:
        target: Plugin name in ``targets/``.
        model: The file that the target opens.
        options: Options of the target itself, as a recipe gives them (``{"device": "CPU"}``).
        runtime_options: What ``open`` is called with (``{"threads": 1, "precision": "bf16"}``).
    """

    target: str
    model: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    runtime_options: Mapping[str, Any] = field(default_factory=dict)

    def plugin(self) -> Target:
        """The target with its own options.

        Raises:
            EdgemmError: There is no such target.
            MissingExtra: Its runtime is not installed here.
        """
        return plugins.find(Target, self.target)(**self.options)

    def open(self, **more: Any) -> Session:
        """A session of the model.

        Args:
            more: Runtime options beside this deployment's own; they override.

        Raises:
            TargetError: The runtime refuses the model.
        """
        return self.plugin().open(self.model, **{**self.runtime_options, **more})

    def versions(self) -> dict[str, str]:
        """Distribution -> version of what runs it here."""
        return self.plugin().versions()

    def key(self) -> dict[str, Any]:
        """What tells it from another in a cache's key, as plain values; all but the file, whose content the caller knows better."""
        return {"target": self.target, "options": dict(self.options), "runtime_options": dict(self.runtime_options)}

    def running(self, runtime_options: Mapping[str, Any]) -> Deployment:
        """The same with these runtime options."""
        return replace(self, runtime_options=runtime_options)

    def holding(self, model: Path) -> Deployment:
        """The same with this file."""
        return replace(self, model=model)
