"""`edgemm pretrain`: train a card's branches on rows without labels; `edgemm train` goes on from there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgemm.box.devices import threads
from edgemm.box.devices.environment import environment
from edgemm.contracts import card_file as cards
from edgemm.contracts import train_section
from edgemm.contracts.card import Card
from edgemm.contracts.judged_parts import AugmentedInput
from edgemm.contracts.modality import notes
from edgemm.contracts.report import Report
from edgemm.contracts.report_parts import Details
from edgemm.data.checking import check
from edgemm.data.dataset import TableDataset, open_dataset
from edgemm.errors import EdgemmError
from edgemm.progress import Progress
from edgemm.report import page
from edgemm.report.terminal import Ending
from edgemm.store import cache
from edgemm.store.artifact import folder_in_one_step, write_json
from edgemm.verbs._train import one, place, reporting, samples
from edgemm.verbs._train.one import Asked

if TYPE_CHECKING:
    from edgemm.workshop.training.pretraining import Pretrained

WRITTEN = ("model.yaml", "branches", "weights.safetensors", "config.json", "metrics.json", "curves.json", "report.json", "report.html",
           place.STATE)  # fmt: skip


@dataclass(frozen=True)
class Pretraining:
    """What ``pretrain`` wrote.

    Attributes:
        folder: Holds model.yaml and the branches' weights, metrics.json, curves.json, report.html and report.json.
        first, loss: Loss on val after the first epoch, and with the weights that were kept; None without val.
        best_epoch: Whose weights were kept, counted from 1.
        ended: After which epoch it ended, and why, in words.
        reused: True where the folder already held the result of this very command.
    """

    folder: Path
    method: str
    first: float | None
    loss: float | None
    best_epoch: int
    ended: str
    reused: bool = False

    @property
    def card(self) -> Path:
        return self.folder / "model.yaml"

    def to_dict(self) -> dict[str, Any]:
        told = {"folder": str(self.folder), "method": self.method, "best_epoch": self.best_epoch, "ended": self.ended}
        return told | {"first": self.first, "loss": self.loss}

    def __str__(self) -> str:
        if self.loss is None or self.first is None:
            return f"{self.method} pretraining ended {self.ended}"
        return f"{self.method} loss on val: {self.loss:.4f} (after the first epoch {self.first:.4f}); it ended {self.ended}"


def pretrain(
    card: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    method: Literal["contrastive", "masked"] = "contrastive",
    config: str | Path | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None,
    fresh: bool = False,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Pretraining:
    """Train the branches of the card's model on rows without labels, and write a card that ``train`` goes on from to ``output``.

    Labels are not read: their columns may be empty or absent. Contrastive: each input of a row is told from the same input of other
    rows by what the row's other inputs say. Masked: pieces of inputs, and some inputs as a whole, are hidden and told from the rest.

    Of a card without weights those of the branches are written; fusion and heads are drawn anew by ``train``. Of a card with weights all
    are written, and fusion and heads are as they were. Test rows are not looked at. A killed run goes on where it was when the same
    command is given again.

    Args:
        card: A model.yaml, a folder with one, a shipped card's name.
        data: A folder with a manifest or <split>.npz files, module:callable, or coco:FILES, yolo:data.yaml, voc:FOLDER.
        output: Folder for the pretrained branches; an earlier pretraining there is replaced.
        method: What is learned: contrastive needs two inputs, masked one.
        config: A train.yaml: augmentation, optimizer, schedule; what in it is about labels, stages and length is not used.
        epochs: Passes over the train split; without it as ``steps`` says.
        steps: Batches to learn from, in whole passes, instead of ``epochs``; without both 1,600, in 20 to 200 passes.
        batch_size: Rows of a step, among which each is to be told from the others; usually 128.
        learning_rate: At its highest; usually 0.001.
        seed: Of every random choice; usually 0.
        device: auto, cpu, cuda or mps.
        mixed_precision: Compute in 16 bits where that is safe.
        fresh: Start anew even where a killed run could go on, or the result is already there.
        skip_bad_rows: Leave out rows that cannot be read, and report them, instead of stopping.

    Raises:
        CardError, CheckpointError, DataError, OutputError: Nothing was written then.
        TrainError: Nothing to pair or to hide, an option out of range, or a loss that is no number.
        ExportError: torch.export refuses the model, so that its branches cannot be told apart.
    """
    progress, is_passive = progress or Progress(), threads.wait_passively()
    from edgemm.workshop.training import pretraining  # torch: after its threads were told how to wait

    source_card = cards.load(card)
    section = train_section.over(source_card.train, train_section.load(config, source_card) if config else {})
    options = pretraining.options(
        section, epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed, device=device,
        mixed_precision=mixed_precision,
    )  # fmt: skip
    options.check()
    pretraining.check(source_card, method)

    def opened(wanted: Card) -> TableDataset:
        return open_dataset(data, wanted, skip_bad_rows=skip_bad_rows, labelled=False)

    about = {} if is_passive else {"thread_waiting": threads.TOO_LATE}
    asked = Asked(source_card, opened, Path(output), options, section, fresh=fresh, about=about)
    asked.augmenter(source_card)
    place.require_own(asked.folder, written=WRITTEN)
    key = one.key_of(asked, opened(source_card), "edgemm.verbs.pretrain", {"method": method})
    finished = None if fresh else _finished(asked.folder, key)
    if finished:
        progress.note(one.HELD.format(asked.folder))
        return finished
    for words in pretraining.unused(section):
        progress.note(f"train.{words} is of no use to pretrain, and is left to train.")
    with progress.stage("pretrain"), tempfile.TemporaryDirectory() as scratch:
        whole = one.completed(source_card, opened(source_card), Path(scratch), progress)
        return _pretrained(asked, whole, method, key, progress)


def ending(done: Pretraining, *, data: str | Path, **_: Any) -> Ending:
    """What the command line says at the end."""
    return Ending(done, (done.folder,), f"edgemm train {done.card} -d {data} -o runs/{done.folder.name}-trained")


def _pretrained(asked: Asked, card: Card, method: Literal["contrastive", "masked"], key: str, progress: Progress) -> Pretraining:
    from edgemm.workshop.training import loop, pretraining

    dataset = asked.open(card)
    check(dataset, needed=["train"], note=progress.note)
    for words in notes(card):
        progress.note(f"note: {words}")
    model = loop.seeded_model(card, seed=asked.options.seed, note=progress.note)
    state, augmenter = asked.folder / place.STATE / "state.pt", asked.augmenter(card)
    if asked.fresh:
        state.unlink(missing_ok=True)
    done = pretraining.pretrain_model(
        model, dataset, method, options=asked.options, augmenter=augmenter if augmenter.does_anything else None, state=state, key=key,
        progress=progress.update, note=progress.note,
    )  # fmt: skip
    pictures = samples.pictures(dataset, augmenter) if augmenter.augmented_inputs else ()
    return _write(asked, done, method, dataset.bad_rows, pictures, key)


def _write(
    asked: Asked, done: Pretrained, method: str, bad_rows: Sequence[str], pictures: Sequence[AugmentedInput], key: str
) -> Pretraining:
    how, curve = done.done, done.done.curves.get("loss/val", [])
    first, loss = (curve[0][1], -how.goodness) if curve else (None, None)
    told = Pretraining(asked.folder, method, first, loss, how.best_epoch, how.ended)
    left = [f"{reporting.left_out(bad_rows)}."] if bad_rows else []
    title = f"{asked.card.path.stem if asked.card.path else 'model'}, pretrained"
    details = Details(title=title, notes=[f"{told}.", *left], augmented=pictures, curves=how.curves)
    with folder_in_one_step(asked.folder) as aside:
        done.write(aside, asked.folder)
        write_json(aside / "metrics.json", {"key": key, **told.to_dict(), "folder": None})
        write_json(aside / "curves.json", how.curves)
        page.write(Report({**environment({"torch": cache.version("torch")}), **asked.about}, [], details=details), aside)
    return told


def _finished(folder: Path, key: str) -> Pretraining | None:
    """The result in ``folder``, if it is this command's."""
    try:
        plain = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if plain.pop("key") == key and cards.load(folder):
            return Pretraining(**{**plain, "folder": folder}, reused=True)
    except (OSError, ValueError, KeyError, TypeError, EdgemmError):
        pass
    return None
