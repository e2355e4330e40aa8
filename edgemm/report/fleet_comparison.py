"""Two reports of a fleet, before and after a change, board by board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemm.contracts.fleet import BoardResult, FleetReport
from edgemm.errors import MeasureError
from edgemm.report import comparison
from edgemm.report.comparison import Comparison


@dataclass(frozen=True)
class FleetComparison:
    """What ``compare`` found.

    Attributes:
        boards: Name -> what changed there.
        lost: Boards that told something in the old report and nothing in the new one, and why: regressions too.
        notes: Boards of which nothing can be said.
    """

    boards: Mapping[str, Comparison]
    lost: Mapping[str, str]
    notes: Sequence[str] = ()

    @property
    def missed(self) -> list[Any]:
        """The regressions of all boards, and the boards that were lost: they make the command end with 3."""
        return [*self.lost, *(change for found in self.boards.values() for change in found.missed)]

    def to_dict(self) -> dict[str, Any]:
        boards = {name: found.to_dict() for name, found in self.boards.items()}
        return {"format": 1, "regressions": len(self.missed), "boards": boards, "lost": dict(self.lost), "notes": list(self.notes)}

    def __str__(self) -> str:
        parts = [f"{name}:\n{found}" for name, found in self.boards.items()]
        parts += ["\n".join([*(f"{name} was lost: {why}" for name, why in self.lost.items()), *self.notes])]
        number = f"{len(self.missed)} regressions" if self.missed else "no regression"
        return "\n\n".join(part for part in [*parts, f"{number} on {len(self.boards)} boards that can be compared"] if part)


def compare(old: FleetReport, new: FleetReport) -> FleetComparison:
    """Hold ``new`` against ``old``: boards of one name against each other, as ``comparison.compare`` does it.

    Raises:
        MeasureError: No board can be compared.
    """
    before, after = ({board.name: board for board in report.boards} for report in (old, new))
    found, lost, notes = dict[str, Comparison](), dict[str, str](), list[str]()
    for name, board in before.items():
        now = after.get(name)
        if now is None or board.report is None:
            notes.append(f"{name}: {'it is not in the new report' if now is None else 'the old report has nothing of it'}.")
        elif now.report is None:
            lost[name] = str(now.problem)
        else:
            _hold(name, board, now, found, notes)
    notes += [f"{name}: it is not in the old report." for name in after if name not in before]
    if not found and not lost:
        raise MeasureError(
            "these reports of fleets have no board in common that can be compared.",
            why=" ".join(notes),
            fix="compare two runs of one fleet file.",
        )
    return FleetComparison(found, lost, notes)


def _hold(name: str, old: BoardResult, new: BoardResult, found: dict[str, Comparison], notes: list[str]) -> None:
    assert old.report is not None
    assert new.report is not None
    try:
        found[name] = comparison.compare(old.report, new.report)
    except MeasureError as err:
        notes.append(f"{name}: {err.what} {err.why}")
