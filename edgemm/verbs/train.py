"""`edgemm train`: train a card's model; the best weights on val stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edgemm.box.devices import threads
from edgemm.contracts import card_file as cards
from edgemm.contracts import launched, train_section
from edgemm.contracts import tracker as trackers
from edgemm.contracts.card import Card
from edgemm.data.dataset import TableDataset, open_dataset
from edgemm.errors import EdgemmError
from edgemm.pipeline import together
from edgemm.progress import Progress
from edgemm.report.terminal import Ending
from edgemm.verbs._train import folded, one
from edgemm.verbs._train.folded import CrossValidation
from edgemm.verbs._train.one import Asked, completed
from edgemm.verbs._train.place import Training
from edgemm.workshop.training.options import TrainOptions

__all__ = ["CrossValidation", "Training", "completed", "ending", "train"]
TOGETHER = True  # the processes of a launcher train one model


def train(
    card: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    config: str | Path | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    schedule: Literal["cosine", "step", "plateau", "one-cycle"] | None = None,
    patience: int | None = None,
    loss_weights: Mapping[str, float] | None = None,
    folds: int | None = None,
    group: str | None = None,
    against: str | Path | None = None,
    track: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None,
    processes: int = 1,
    accumulate: int | None = None,
    fresh: bool = False,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Training | CrossValidation:
    """Train the card's model and write it to ``output``, replacing what an earlier training wrote there.

    How stands in the card's ``train`` section, in a file of that form (``config``), and in the options below; the later counts, and what
    nobody says is usual: see docs/training.md.

    What the card leaves open is taken from the train split: labels, the vocabulary of a text input without a tokenizer, mean and
    deviation of a sensor. A card with weights is trained on from them. A killed run goes on where it was when the same command is given
    again, to the same result. The processes that torchrun starts train one model together, and the first writes it.

    Args:
        card: A model.yaml, a folder with one, a shipped card's name.
        data: A folder with a manifest or <split>.npz files, module:callable, or coco:FILES, yolo:data.yaml, voc:FOLDER.
        output: Folder for the trained model; an earlier training there is replaced.
        config: A train.yaml: optimizer, schedule, stages, augmentation and more; instead of the card's own, option by option.
        epochs: Passes over the train split; without it as ``steps`` says.
        steps: Batches to learn from, in whole passes, instead of ``epochs``; without both 2,400, in 20 to 200 passes.
        batch_size: Rows of a step; usually 64.
        learning_rate: At its highest; usually 0.001.
        schedule: How the learning rate falls; usually cosine.
        patience: Stop after so many epochs without a better one on val; without it a quarter of all, at least 10; 0: never.
        loss_weights: Factor of an output's loss, 1 where not named; may be repeated.
        folds: Train so many models instead, each without a part of the rows of train and val, which it is then measured on.
        group: Column of the groups that folds never part, such as a speaker's name; without it ``group``, where the data has one.
        against: Folder of another model's folds, to compare with in pairs.
        track: Where the record of the training goes too: mlflow:URI, tensorboard:DIR or wandb:PROJECT; may be repeated.
        seed: Of every random choice; usually 0.
        device: auto, cpu, cuda or mps.
        mixed_precision: Compute in 16 bits where that is safe.
        processes: So many processes of this machine train the model together, each with its share of every batch.
        accumulate: Batches whose gradients make one step, where memory holds no larger batch; usually 1.
        fresh: Start anew even where a killed run could go on, or the result is already there.
        skip_bad_rows: Leave out rows that cannot be read, and report them, instead of stopping.

    Raises:
        CardError, CheckpointError, DataError, OutputError: Nothing was written then.
        ExportError: The model's answer to a row depends on chance, or on the other rows of its batch; nothing was written.
        TrainError: An option out of range, or a loss that is no number: the best weights so far are then in ``output``/last_good.
        MissingExtra: A tracker's package is not installed.
        EdgemmError: An option without the one that it belongs to.
    """
    progress, is_passive = progress or Progress(), threads.wait_passively()
    from edgemm.workshop.training import checking  # torch: after its threads were told how to wait

    source_card = cards.load(card)
    section = train_section.over(source_card.train, train_section.load(config, source_card) if config else {})
    options = TrainOptions.of(
        section, epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=learning_rate, schedule=schedule, patience=patience,
        loss_weights=loss_weights, seed=seed, device=device, mixed_precision=mixed_precision, accumulate=accumulate,
    )  # fmt: skip
    options.check()
    _check_together(folds, group, against, processes)

    def opened(wanted: Card) -> TableDataset:
        return open_dataset(data, wanted, skip_bad_rows=skip_bad_rows)

    about = {} if is_passive else {"thread_waiting": threads.TOO_LATE}
    tracks = tuple(track) if launched.is_first() else ()
    asked = Asked(source_card, opened, Path(output), options, section, tracks, fresh=fresh, about=about)
    checking.check(source_card, options, changes=bool(asked.augmenter(source_card).augmented_inputs))
    if processes > 1 and not launched.is_together():
        given = {
            "card": str(card), "data": str(data), "output": str(output), "config": str(config) if config else None, "epochs": epochs,
            "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "schedule": schedule, "patience": patience,
            "loss_weights": dict(loss_weights) if loss_weights else None, "track": list(track), "seed": seed, "device": device,
            "mixed_precision": mixed_precision, "fresh": fresh, "skip_bad_rows": skip_bad_rows, "accumulate": accumulate,
        }  # fmt: skip
        return one.train_together(asked, given, processes, progress)
    trackers.opened(asked.tracks)  # what is wrong with one is told before any work
    with progress.stage("train"):
        if folds is None:
            return one.train(asked, progress)
        return folded.train(asked, folds, progress, group=group, against=Path(against) if against else None)


def ending(trained: Training | CrossValidation, *, data: str | Path, **_: Any) -> Ending:
    """What the command line says at the end."""
    if isinstance(trained, CrossValidation):
        return Ending(trained, (trained.folder,), f"open {trained.folder / 'report.html'} in a browser")
    command = f"edgemm compress {trained.card} -r openvino-int8 -d {data} -o build/{trained.folder.name}"
    return Ending(trained, (trained.folder,), command)


def _check_together(folds: int | None, group: str | None, against: str | Path | None, processes: int) -> None:
    """Raises EdgemmError where folds are spoken of and there are none, or where several processes cannot be."""
    together.require_processes(processes)
    if folds is not None and processes > 1:
        fix = "leave one of them out: folds are trained one after the other."
        raise EdgemmError(f"folds is {folds} and processes {processes}.", why="each fold is trained in one process.", fix=fix)
    for name, value in (("group", group), ("against", against)):
        if value is not None and folds is None:
            fix = f"add --folds 5, or take --{name} out."
            raise EdgemmError(f"{name} is given without folds.", why="it is about cross-validation.", fix=fix)
