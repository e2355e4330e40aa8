"""`edgemm train`: train a card's model; the best weights on val stay."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgemm.box.devices import threads
from edgemm.box.devices.environment import environment
from edgemm.contracts import card_file as cards
from edgemm.contracts import launched, plugins, stage_code
from edgemm.contracts.card import Card
from edgemm.contracts.modality import TrainSplit, modalities, notes
from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.report_parts import Details
from edgemm.data import scoring
from edgemm.data.checking import check
from edgemm.data.dataset import TableDataset, find_labels, open_dataset, present_samples
from edgemm.data.detected import detected
from edgemm.errors import OutputError
from edgemm.pipeline import together
from edgemm.progress import Progress
from edgemm.report import page
from edgemm.report.terminal import Ending
from edgemm.store import cache
from edgemm.store.artifact import folder_in_one_step, require_writable, sha256_of, write_json
from edgemm.workshop.models.checkpoint import identity
from edgemm.workshop.training.options import TrainOptions

if TYPE_CHECKING:
    from edgemm.workshop.models.fused import FusedModel
    from edgemm.workshop.training.answers import Answered
    from edgemm.workshop.training.loop import Trained

STATE, LAST_GOOD = ".training", "last_good"
WRITTEN = (
    "model.yaml",
    "weights.safetensors",
    "config.json",
    "metrics.json",
    "curves.json",
    "report.json",
    "report.html",
    STATE,
    LAST_GOOD,
)
TOGETHER = True  # the processes of a launcher train one model
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "tokenizers")


@dataclass(frozen=True)
class Training:
    """What ``train`` wrote.

    Attributes:
        folder: Holds model.yaml, weights.safetensors, metrics.json, curves.json, report.html and report.json.
        metrics: ``val`` and, where there is one, ``test`` -> output -> name -> value.
        best_epoch: Whose weights were kept, counted from 1.
        ended: After which epoch it ended, and why, in words.
        reused: True where the folder already held the result of this very command.
    """

    folder: Path
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]
    best_epoch: int
    ended: str = ""
    reused: bool = False

    @property
    def card(self) -> Path:
        return self.folder / "model.yaml"

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "best_epoch": self.best_epoch, "ended": self.ended, "metrics": self.metrics}

    def __str__(self) -> str:
        """The guarded metric of every output on test (else val), with its interval."""
        split = "test" if "test" in self.metrics else "val"
        lines = []
        for output, values in self.metrics.get(split, {}).items():
            name, value = next(iter(values.items()))
            interval = "" if values.get("low") is None else f" [{values['low']:.4f}, {values['high']:.4f}]"
            lines.append(f"{split} {name} of {output}: {value:.4f}{interval}, {values['n']} rows")
        return "\n".join(lines)


def train(
    card: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    schedule: Literal["cosine", "step"] = "cosine",
    patience: int | None = None,
    loss_weights: Mapping[str, float] | None = None,
    seed: int = 0,
    device: str = "auto",
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
    processes: int = 1,
    accumulate: int = 1,
    fresh: bool = False,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Training:
    """Train the card's model and write it to ``output``, replacing what an earlier training wrote there.

    What the card leaves open is taken from the train split: labels, the vocabulary of a text input without a tokenizer, mean and
    deviation of a sensor. A card with weights is trained on from them. A killed run goes on where it was when the same command is given
    again, to the same result. The processes that torchrun starts train one model together, and the first writes it.

    Args:
        card: A model.yaml, a folder with one, a shipped card's name.
        data: A folder with a manifest or <split>.npz files, module:callable, or coco:FILES, yolo:data.yaml, voc:FOLDER.
        output: Folder for the trained model; an earlier training there is replaced.
        epochs: Passes over the train split; without it as ``steps`` says.
        steps: Batches to learn from, in whole passes, instead of ``epochs``; without both 2,400, in 20 to 200 passes.
        batch_size: Rows of a step.
        learning_rate: At its highest.
        schedule: How the learning rate falls.
        patience: Stop after so many epochs without a better one on val; without it a quarter of all, at least 10; 0: never.
        loss_weights: Factor of an output's loss, 1 where not named; may be repeated.
        seed: Of every random choice.
        device: auto, cpu, cuda or mps.
        mixed_precision: Compute in 16 bits where that is safe.
        processes: So many processes of this machine train the model together, each with its share of every batch.
        accumulate: Batches whose gradients make one step, where memory holds no larger batch.
        fresh: Start anew even where a killed run could go on, or the result is already there.
        skip_bad_rows: Leave out rows that cannot be read, and report them, instead of stopping.

    Raises:
        CardError, CheckpointError, DataError, OutputError: Nothing was written then.
        ExportError: The model's answer to a row depends on chance, or on the other rows of its batch; nothing was written.
        TrainError: An option out of range, or a loss that is no number: the best weights so far are then in ``output``/last_good.
    """
    progress, folder, is_passive = progress or Progress(), Path(output), threads.wait_passively()
    from edgemm.workshop.models.checkpoint import loading
    from edgemm.workshop.models.row_by_row import require_own_answers_on
    from edgemm.workshop.training import loop  # torch: after its threads were told how to wait

    options = TrainOptions(
        epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=learning_rate, schedule=schedule, patience=patience,
        loss_weights=loss_weights or {}, seed=seed, device=device, mixed_precision=mixed_precision, accumulate=accumulate,
    )  # fmt: skip
    options.check()
    together.require_processes(processes)
    source_card = cards.load(card)
    dataset = open_dataset(data, source_card, skip_bad_rows=skip_bad_rows)
    _require_own(folder)
    key = _key(source_card, dataset, options)
    training = None if fresh else _finished(folder, key)
    if training:
        progress.note(f"{folder} already holds the result of this command; --fresh trains anew")
        return training
    if processes > 1 and not launched.is_together():
        given = {
            "card": str(card), "data": str(data), "output": str(folder), "epochs": epochs, "steps": steps, "batch_size": batch_size,
            "learning_rate": learning_rate, "schedule": schedule, "patience": patience, "loss_weights": dict(loss_weights or {}),
            "seed": seed, "device": device, "mixed_precision": mixed_precision, "fresh": fresh, "skip_bad_rows": skip_bad_rows,
            "accumulate": accumulate,
        }  # fmt: skip
        with progress.stage(f"train in {processes} processes"):
            together.run("train", given, processes, progress)
        trained = _finished(folder, key)
        assert trained is not None  # they ended well
        return dataclasses.replace(trained, reused=False)
    if not is_passive:
        progress.note(threads.TOO_LATE)
    with tempfile.TemporaryDirectory() as scratch, progress.stage("train"):
        whole = completed(source_card, dataset, Path(scratch), progress)
        dataset = open_dataset(data, whole, skip_bad_rows=skip_bad_rows)
        check(dataset, note=progress.note)
        for note in notes(whole):
            progress.note(f"note: {note}")
        model = loop.seeded_model(whole, seed=seed, note=progress.note)
        require_own_answers_on(model, dataset, progress.note)
        state = folder / STATE / "state.pt"
        if fresh:
            state.unlink(missing_ok=True)
        try:
            done = loop.train_model(
                model, dataset, options=options, from_scratch=not source_card.weights, state=state, key=key,
                progress=progress.update, note=progress.note,
            )  # fmt: skip
        except loop.Diverged as err:
            if err.best_epoch:
                loading.save_model(model, folder / LAST_GOOD)
            raise
        return _write(model, dataset, done, folder, key, progress, waiting={} if is_passive else {"thread_waiting": threads.TOO_LATE})


def _key(card: Card, dataset: TableDataset, options: TrainOptions) -> str:
    """What a training depends on."""
    applied = {step for entry in card.applied for step in entry}
    apart = ("edgemm.report", "edgemm.pipeline")  # a page of older looks, or how processes are started, is no reason to train anew
    code = stage_code.of(__name__, only={"steps": applied}, without=apart)
    decoders = [name for spec in card.inputs.values() for name in plugins.packages("modalities", spec.modality)]
    facts = {
        "model": identity.identity(card),
        "data": dataset.fingerprint(),
        "options": dataclasses.asdict(options),
        "skip_bad_rows": dataset.leaves_out,
    }
    return sha256_of(cache.key_facts(facts, code=code.digest, packages={*PACKAGES, *decoders}))


def ending(trained: Training, *, data: str | Path, **_: Any) -> Ending:
    """What the command line says at the end."""
    command = f"edgemm compress {trained.card} -r openvino-int8 -d {data} -o build/{trained.folder.name}"
    return Ending(trained, (trained.folder,), command)


def completed(card: Card, dataset: TableDataset, scratch: Path, progress: Progress) -> Card:
    """The card with what it leaves open filled in from the train split.

    Args:
        scratch: Folder for the tokenizers that are built.

    Raises:
        DataError: A row cannot be read, or values that are no labels.
    """
    card = find_labels(dataset, card)
    inputs = dict(card.inputs)
    for name, modality in modalities(card).items():
        cells, samples = functools.partial(dataset.cells, "train", name), functools.partial(present_samples, dataset, name)
        learned = modality.learned(TrainSplit(name, cells, samples, scratch, has_weights=bool(card.weights)))
        inputs[name] = dataclasses.replace(inputs[name], options={**inputs[name].options, **learned.options})
        if learned.note:
            progress.note(f"{name}: {learned.note}")
    return card.replace(inputs=inputs)


def _require_own(folder: Path) -> None:
    """Refuse to replace what no training wrote.

    Raises:
        OutputError: Not a folder, not writable, or holding something else.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder.", fix="choose another place with -o.")
    foreign = sorted(
        path.name
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name not in WRITTEN and not path.name.endswith("tokenizer.json")
    )
    if foreign:
        raise OutputError(
            f"{folder} holds '{foreign[0]}', which no training wrote.",
            why="the folder is replaced as a whole.",
            fix="choose an empty or new folder with -o.",
        )
    require_writable(folder)


def _finished(folder: Path, key: str) -> Training | None:
    """The result in ``folder``, if it is this command's."""
    try:
        plain = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if plain["key"] == key and (folder / "model.yaml").is_file() and (folder / "weights.safetensors").is_file():
            metrics = {split: plain[split] for split in ("val", "test") if split in plain}
            return Training(folder, metrics, plain["best_epoch"], plain["ended"], reused=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(
    model: FusedModel, dataset: TableDataset, done: Trained, folder: Path, key: str, progress: Progress, *, waiting: Mapping[str, str]
) -> Training:
    """Score the test split and write everything in one step; in a run of several processes only the first does."""
    from edgemm.data.in_memory import open_split
    from edgemm.workshop.models.checkpoint import loading
    from edgemm.workshop.training.answers import evaluate

    metrics = {"val": done.metrics} if done.metrics else {}
    if not done.is_main:
        return Training(folder, metrics, done.best_epoch, done.ended)
    test = evaluate(model, open_split(dataset, "test")) if dataset.count("test") else None
    if test is not None:
        metrics["test"] = test.measured()
    if dataset.bad_rows:
        progress.note(f"{_left_out(dataset.bad_rows)}: {dataset.bad_rows[0]}")
    report = _report(model.card, done, metrics, test, dataset.bad_rows, waiting)
    with folder_in_one_step(folder) as aside:
        loading.write_model(model, aside, folder)
        write_json(
            aside / "metrics.json", {"key": key, "best_epoch": done.best_epoch, "epochs": done.epochs, "ended": done.ended, **metrics}
        )
        write_json(aside / "curves.json", done.curves)
        page.write(report, aside)
    return Training(folder, metrics, done.best_epoch, done.ended)


def _report(
    card: Card, done: Trained, metrics: Mapping[str, Any], test: Answered | None, bad_rows: list[str], waiting: Mapping[str, str]
) -> Report:
    measurements = []
    for name, statistics in test.statistics().items() if test else ():
        score = statistics.score()
        measurements.append(
            Measurement(
                score.name, score.value, score.unit, score.better, "original", target="torch", output=name, low=score.low, high=score.high,
                n=score.n, precision_asked="fp32", precision_ran="fp32",
            )
        )  # fmt: skip
    notes = [f"The weights are those of epoch {done.best_epoch}, the best on val. Training ended {done.ended}."] if "val" in metrics else []
    notes += [f"{_left_out(bad_rows)}."] if bad_rows else []
    details = Details(
        title=f"{card.path.stem if card.path else 'model'}, trained",
        notes=notes,
        confusion=scoring.confusions(card.outputs, test.truth, {}, test.answers) if test else {},
        detected=detected(card, test.truth, {}, test.answers) if test else {},
        curves=done.curves,
    )
    return Report({**environment({"torch": cache.version("torch")}), **waiting}, measurements, details=details)


def _left_out(bad_rows: list[str]) -> str:
    one = len(bad_rows) == 1
    return f"{len(bad_rows)} {'row' if one else 'rows'} could not be read and {'was' if one else 'were'} left out"
