"""`edgemm explain`: which input said what of single rows, and what in it: a picture's places, a sound's bands, words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgemm.contracts.explanation import Explanation
from edgemm.data.dataset import open_dataset
from edgemm.data.one_row import rows_of
from edgemm.errors import DataError
from edgemm.pipeline.explained_forms import open_forms
from edgemm.pipeline.explaining import explain_rows
from edgemm.progress import Progress
from edgemm.report import explained
from edgemm.report.terminal import Ending
from edgemm.store.artifact import require_writable, write_bytes


def explain(
    model: str | Path,
    *,
    data: str | Path,
    row: Sequence[str | int] = (),
    output: str | Path | None = None,
    label: str | None = None,
    target: str | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Say which input of a row said what, and what in it: the float graph beside what was made of it.

    Each input's part in an answer is its exact Shapley share; what in it counts shows where pieces of it are taken away, one after another.
    A bundle needs no torch; of a torch model integrated gradients are shown too.

    Args:
        model: A bundle; or a card, a folder with ``model.yaml`` or an ``.onnx`` file, of which there is one form.
        data: The dataset that holds the rows.
        row: A row's number, as errors name it: its line in the manifest. May be repeated; without it the first row of test.
        output: The page, such as page.html.
        label: What is explained instead of the label that the compressed model decides for.
        target: Which of the bundle's targets; without it the first that this machine has.

    Raises:
        DataError: There is no such row, or it cannot be read.
        BundleError: The bundle is damaged.
        EdgemmError: No output has the label, or says what people could read.
        RunError: The bundle was not made for the target, or none of its targets runs here.
    """
    page, numbers = Path(output) if output else None, [_number(word) for word in row]
    if page:
        require_writable(page)
    progress = progress or Progress()
    opened = open_forms(model, data, target, progress)
    rows = rows_of(open_dataset(data, opened.card, labelled=False), numbers)
    with progress.stage("explain"):
        explained_rows, calls = explain_rows(
            opened.card, opened.forms, rows, reference=opened.reference, label=label, attribute=opened.attribute, tell=progress.update
        )
    explanation = Explanation(Path(model).name, tuple(form.name for form in opened.forms), explained_rows, calls, opened.notes)
    if page:
        write_bytes(page, explained.render(explanation).encode())
    return explanation


def ending(explanation: Explanation, *, output: str | None = None, **_: object) -> Ending:
    """What the command line says at the end."""
    return Ending(explanation, (Path(output),) if output else ())


def _number(word: str | int) -> int:
    if isinstance(word, str) and not word.strip().isdigit():
        raise DataError(f"--row '{word}' is no row.", fix="give its number: the line in the manifest, such as --row 17.")
    return int(word)
