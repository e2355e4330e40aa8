"""TensorBoard: tensorboard:DIR writes event files into a folder of the run's name in DIR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemm.contracts.modality import needing
from edgemm.contracts.tracker import Tracker, numbers_of
from edgemm.errors import OutputError


class Tensorboard(Tracker):
    """Curves as scalars, options as text, final metrics as hyperparameters' results."""

    def __init__(self, place: str) -> None:
        self._folder, self._writes = Path(place), _writer()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise OutputError(f"cannot write to {place}.", why=f"{err.strerror}.", fix="name another folder behind tensorboard:.") from err

    def begin(self, name: str, options: Mapping[str, Any]) -> None:
        self._writer = self._writes(str(self._folder / name))
        self._writer.add_text("options", "\n".join(f"    {key}: {value}" for key, value in options.items()))

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def end(self, metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], files: Sequence[Path]) -> None:
        for name, value in numbers_of(metrics).items():
            self._writer.add_scalar(f"final/{name}", value, 0)
        self._writer.close()

    def fail(self) -> None:
        self._writer.close()


def _writer() -> Any:
    """What writes event files: TensorBoard's own, or the package that does so without a server."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        with needing("tracker 'tensorboard'"):
            from tensorboardX import SummaryWriter  # type: ignore[no-redef]
    return SummaryWriter
