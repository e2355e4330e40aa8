"""Which source a dataset's name means, and whether its rows were decoded already."""

from __future__ import annotations

from pathlib import Path

from edgemm.contracts import task as tasks
from edgemm.contracts import user_code
from edgemm.contracts.card import Card, Input
from edgemm.contracts.modality import input_specs
from edgemm.data import manifests, samples
from edgemm.data._annotations.rows import FORMATS, AnnotatedRows
from edgemm.data.manifest import SPLITS, RowSource, split_named
from edgemm.data.manifests import READERS
from edgemm.data.shards import TarManifest
from edgemm.errors import DataError
from edgemm.store.artifact import sha256_of

MARK = "decoded"
"""An empty file of this name beside ``<split>.npz`` says so."""


def is_ready(data: str | Path) -> bool:
    """Whether a dataset folder holds arrays that another machine decoded, so that no package for files is needed here.

    They hold just what the graph takes, and the truth as tasks score it, named as the card's inputs and outputs.
    """
    return (Path(data) / MARK).is_file()


def taken_as_it_is(card: Card) -> Card:
    """The card with every input a plain tensor of the shape that the graph takes."""
    inputs = {spec.name: Input(spec.name, "tensor", {"dtype": spec.dtype, "shape": list(spec.shape)}) for spec in input_specs(card)}
    return card.replace(inputs=inputs, columns={})


def open_source(data: str | Path, card: Card, *, bad: dict[int, str] | None, row_bytes: int) -> RowSource:
    """The source that ``data`` names: a folder, a file, ``module:callable``, or ``coco:FILE`` and the like.

    Args:
        bad: Where a row of a manifest that names no split is noted, so that it is left out; None = such a row is an error.
        row_bytes: Size of a decoded row.

    Raises:
        DataError: Nothing there that could be a dataset.
    """
    path = Path(data)
    labelled = any(task.has_truth for task in tasks.tasks(card).values())
    if path.is_dir():
        manifest = manifests.in_folder(path)
        if not manifest and (rows := manifests.of_many(path, bad)) is not None:
            return rows
        if not manifest and not any(split_named(file.stem) in SPLITS for file in path.glob("*.npz")):
            why = f"it has none of {', '.join(f'manifest{suffix}' for suffix in READERS)}, train.npz, val.npz, test.npz, calib.npz."
            raise DataError(
                f"'{path}' is no dataset.", why=why, fix="write a manifest.csv with a column split and one per input and output."
            )
        path = manifest or path
    if path.is_dir() or (path.is_file() and path.suffix == ".npz"):
        return samples.Npz(path, labelled=labelled)
    if path.is_file() and path.suffix == ".tar":
        return TarManifest(path, bad, shards=[path])
    if path.is_file() and path.suffix in READERS:
        return READERS[path.suffix](path, bad)
    if not path.exists() and str(data).partition(":")[0] in FORMATS and "://" not in str(data):
        return AnnotatedRows(str(data), card, bad)
    if "://" in str(data):
        raise DataError(
            f"'{data}' is no dataset.", why="it is an address, and nothing is fetched.", fix="download it, and give the folder."
        )
    if not path.exists() and ":" in str(data):
        function = samples.load_function(str(data), user_code.folders(card))
        digest = sha256_of(user_code.source_facts(card.replace(factory=str(data))))
        return samples.Function(function, str(data), card.folder, digest, row_bytes)
    why = "the file is neither .csv, .tsv, .jsonl, .json, .parquet nor .npz." if path.exists() else "there is no such file or folder."
    raise DataError(
        f"'{data}' is no dataset.",
        why=why,
        fix="give a folder with a manifest, an .npz file, module:callable, or coco:FILE, yolo:FILE, voc:FOLDER.",
    )
