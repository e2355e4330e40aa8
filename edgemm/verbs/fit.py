"""`edgemm fit`: thresholds by how often a bundle may raise a false alarm, from recordings in which nothing happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.serving import alarms, command_line, run_yaml
from edgemm.box.serving import model as serving
from edgemm.box.serving.alarms import Fitted
from edgemm.box.serving.settings import Settings
from edgemm.contracts import task as tasks
from edgemm.contracts import written
from edgemm.contracts.modality import modalities
from edgemm.contracts.stream import Pictures, Sound
from edgemm.data.dataset import open_dataset
from edgemm.errors import RunError
from edgemm.report.terminal import Ending
from edgemm.store.artifact import write_bytes

SPLIT = "test"


@dataclass(frozen=True)
class Thresholds:
    """What was fitted.

    Attributes:
        hours: Of quiet recordings.
        file: Where the thresholds were written to.
    """

    classes: tuple[Fitted, ...]
    hours: float
    file: Path

    def to_dict(self) -> dict[str, Any]:
        return {"hours": self.hours, "file": str(self.file), "classes": [asdict(one) for one in self.classes]}

    def __str__(self) -> str:
        return "\n".join([f"{self.hours:.2f} h of quiet recordings", *map(_line, self.classes)])


def fit(
    bundle: str | Path,
    *,
    quiet: Sequence[str],
    alarms_per_day: float = 1.0,
    data: str | Path | None = None,
    config: str | Path = "run.yaml",
    target: str | None = None,
) -> Thresholds:
    """Play recordings in which nothing happens, and give each class the lowest threshold that raises no more alarms a day than asked.

    Alarms are events as ``edgemm run`` tells them, with debounce and cool-down. A class that leads for most of the time is taken for what
    quiet looks like, and is never an event.

    Args:
        bundle: A bundle folder or ``.edgemm`` file.
        quiet: A recording of your own camera or microphone, such as night.mp4, or ``image,audio=night.mp4``; may be repeated.
        alarms_per_day: Alarms of one class a day.
        data: Labelled rows; of those of the test split it is told which share of a class its threshold still finds.
        config: run.yaml to write the thresholds into; what else stands there stays. It is made where there is none.
        target: Where it runs; without it the first of the bundle's targets, in its order, that this box has.

    Raises:
        RunError: The recordings are too short for the rate, live, or cannot be read; run.yaml does not fit the model. Mistakes: several.
        BundleError: The bundle is damaged.
    """
    opened, file = open_bundle(bundle), Path(config)
    if not quiet:
        raise RunError("no quiet recording is given.", fix="add --quiet night.mp4: hours of your own camera in which nothing happens.")
    plain = _plain(file)
    recordings = [_played(word, file, opened, target) for word in quiet]
    settings = recordings[0]
    alarms.require(recordings, alarms_per_day)
    watched = alarms.watch(opened, settings, recordings)
    every = alarms.fitted(watched, settings, alarms_per_day)
    if data is not None:
        every = _with_recall(every, opened, settings, data)
    content = written.dump(alarms.written_into(plain, every), default_flow_style=None, width=140)
    write_bytes(file, content.encode())
    return Thresholds(tuple(every), watched.seconds / 3600, file)


def ending(done: Thresholds, *, bundle: str | Path, **_: Any) -> Ending:
    """What each class keeps, and how to run with it."""
    return Ending(done, written=(done.file,), next=f"edgemm run {bundle} --config {done.file} --source INPUTS=PLACE")


def _plain(file: Path) -> dict[str, Any]:
    try:
        content = written.load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise RunError(f"cannot read {file}.", why=" ".join(str(err).split()), fix="mend the place it names.") from err
    return content if isinstance(content, dict) else {}


def _played(word: str, file: Path, bundle: Bundle, target: str | None) -> Settings:
    """What run.yaml says, with one recording as the only source."""
    names = [name for name, part in modalities(bundle.card).items() if isinstance(part.stream(), (Pictures, Sound))]
    named = word if "=" in word.partition("://")[0] else f"{','.join(names)}={word}"
    instead = {"sources": command_line.of_words([named]), "sinks": []} | ({"target": target} if target else {})
    settings = run_yaml.load(file if file.is_file() else None, bundle.card, instead=instead)
    return replace(settings, web=None, drift=None)


def _with_recall(every: Sequence[Fitted], bundle: Bundle, settings: Settings, data: str | Path) -> list[Fitted]:
    """With the share of the labelled rows of each class that its threshold finds."""
    dataset, card = open_dataset(data, bundle.card), bundle.card
    asked = {name for name, own in settings.decisions.items() if own.words or own.gallery}  # labelled rows are about the bundle's own
    named = {one.output for one in every} - asked
    outputs = {name: task for name, task in tasks.tasks(card).items() if task.is_one_label and name in named}
    scores: dict[tuple[str, str], list[float]] = {}
    with serving.open_model(bundle, serving.choose_target(bundle, settings.target).target, settings) as model:
        for batch in dataset.batches(SPLIT, 1):
            answers = model.answer({name: model.embed(name, array) for name, array in batch.inputs.items() if name in model.inputs})
            for name, task in outputs.items():
                seen = task.read(answers)
                labels = list(seen.scores or {}) if seen else []
                if name in batch.truth and labels and seen and seen.scores:
                    label = labels[int(np.ravel(batch.truth[name])[0])]
                    scores.setdefault((name, label), []).append(seen.scores[label])
    return [_found(one, scores.get((one.output, one.label), [])) for one in every]


def _found(one: Fitted, scores: Sequence[float]) -> Fitted:
    return replace(one, recall=float(np.mean(np.array(scores) >= one.threshold))) if scores and not one.quiet else one


def _line(one: Fitted) -> str:
    if one.quiet:
        return f"{one.output}.{one.label}: what quiet looks like, never an event"
    kept = "" if one.recall is None else f"; finds {100 * one.recall:.0f}% of its labelled rows"
    rate = f"{one.alarms} alarms, {one.per_day:.2g} a day [{one.low:.2g}, {one.high:.2g}], as long again {one.again[0]} to {one.again[1]}"
    return f"{one.output}.{one.label}: threshold {one.threshold:g}, {rate}{kept}"
