"""What one part of a benchmark found out, as it goes into the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgemm.contracts.report import Measurement


@dataclass(frozen=True)
class Findings:
    """Measurements, parts of the report beside them, and what a reader must know.

    Attributes:
        details: Name of a field of ``report_parts.Details`` -> its value; notes aside.
    """

    measurements: Sequence[Measurement] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
