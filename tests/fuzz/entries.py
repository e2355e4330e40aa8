"""What is done with an input of each kind: the way of the verbs, in this process, up to what a user would read."""

import contextlib
import io
import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgemm import cli
from edgemm.box.bundle.deployment import deploy
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.parts import Parts
from edgemm.box.serving import run_yaml
from edgemm.box.serving.runner import Runner
from edgemm.contracts import plugins
from edgemm.contracts.recipe import load as load_recipe
from edgemm.contracts.target import Target
from edgemm.data.dataset import open_dataset
from edgemm.errors import EdgemmError
from edgemm.pipeline import torch_steps
from edgemm.pipeline.job import samples, start
from edgemm.report import terminal

UNFORESEEN = "edgemm did not expect this"
OUT = "out"
"""Where verbs write, in a folder of its own in an input's folder."""
RECIPE = "steps: [{quantize: {method: ptq, calibration_samples: 2}}]\ntargets: {onnxruntime: {threads: 1}}\n"


@dataclass
class Outcome:
    """What a user would see.

    Attributes:
        code: Exit code of the last command.
        error: Class of the error that ended it; "" where none did.
        text: What stood on stderr.
        findings: What must not be, in words.
        place: The line of edgemm that an unforeseen error came through last, for telling findings apart.
    """

    code: int = 0
    error: str = ""
    text: str = ""
    findings: list[str] = field(default_factory=list)
    place: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(kind: str, folder: Path) -> Outcome:
    """Try the input in ``folder``."""
    os.chdir(folder)
    return ENTRIES[kind](folder)


def _tried(call: Callable[[], object]) -> Outcome:
    """As ``cli.main`` ends a command: what a verb raises becomes words and a code."""
    outcome, told, error = Outcome(), io.StringIO(), None
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            call()
        except SystemExit as ended:  # of cli.main, which has said why
            outcome.code, error = int(ended.code or 0), ended.__context__
        except Exception as err:
            outcome.code, error = 1, err
            told.write(terminal.words(err))
    outcome.text = told.getvalue()
    if outcome.code:
        outcome.error = type(error).__name__
        _look_at(outcome, error)
    return outcome


def _look_at(outcome: Outcome, error: BaseException | None) -> None:
    if UNFORESEEN in outcome.text or "Traceback (most recent" in outcome.text:
        outcome.findings.append("a user reads of an unforeseen error")
    elif not outcome.text.strip() and outcome.code == 1:
        outcome.findings.append("it failed and said nothing")
    elif isinstance(error, EdgemmError) and not error.what.strip():
        outcome.findings.append("an error without words")
    if outcome.findings and error is not None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/edgemm/" in frame.filename]
        outcome.place = f"{frames[-1].filename.split('/edgemm/')[-1]}:{frames[-1].lineno} {frames[-1].name}" if frames else ""
        outcome.text += "\n" + "".join(traceback.format_exception(error)[-6:])


def _card(folder: Path) -> Outcome:
    """Read, build, and one sample through it."""

    def whole() -> None:
        job = start(folder, None)
        if job.card.is_onnx:
            cli.main(["export", str(folder / "model.yaml"), "-o", f"{OUT}/graph"])
        with plugins.load(Target, "torch").open(job.card.path) as session:
            session.run(samples(job, 1)[0])

    return _with_output(partial(_tried, whole), folder)


def _recipe(folder: Path) -> Outcome:
    def whole() -> None:
        job = start(folder, folder)
        torch_steps.check(job, load_recipe(folder / "recipe.yaml", card=job.card))

    return _tried(whole)


def _manifest(folder: Path) -> Outcome:
    """Every row looked at and decoded, as an error and left out."""

    def whole(*, skip_bad_rows: bool) -> None:
        dataset = start(folder, folder, skip_bad_rows=skip_bad_rows).dataset
        dataset.fingerprint()
        for split in dataset.splits():
            list(dataset.batches(split, 4, shuffle=0))
        list(open_dataset(folder, dataset.card, skip_bad_rows=skip_bad_rows).calibration(2))

    outcome = _tried(partial(whole, skip_bad_rows=True))
    return outcome if outcome.findings else _tried(partial(whole, skip_bad_rows=False))


def _run_yaml(folder: Path) -> Outcome:
    """Read, checked, and everything made that it names; nothing is played."""

    def whole() -> None:
        opened = open_bundle(folder / "bundle")
        runner = Runner(opened, run_yaml.load(folder / "run.yaml", opened.card))
        runner.model.close()

    return _tried(whole)


def _played(folder: Path) -> Outcome:
    """The same, and run to its end; without the page and what reaches other machines."""
    return _tried(partial(cli.main, ["run", str(folder / "bundle"), "-c", str(folder / "run.yaml"), "--fast", "--seconds", "2", "--quiet"]))


def _bundle(folder: Path) -> Outcome:
    """Verified, opened, and a golden sample through all it holds."""
    path = next(folder.glob("bundle*"), folder / "bundle")
    verified = _tried(partial(cli.main, ["verify", str(path)]))

    def whole() -> None:
        opened = open_bundle(path)
        golden = opened.golden()
        opened.ledger(), opened.report(), opened.reference()
        for name in opened.targets():
            served = deploy(opened, name)
            feed = golden.sample(0) if golden else {}
            with served.whole.open() as session:
                session.run(feed)
            if served.split and served.standins:
                with Parts(served.split, served.open_part) as parts:
                    parts.answer({name: parts.embed(name, feed) for name in served.split.inputs}, served.standins, {})

    used = verified if verified.findings else _tried(whole)
    if not verified.findings and not used.findings:
        used = used if used.code else _tried(partial(cli.main, ["inspect", str(path), "--json"]))
    return used if used.findings else verified if verified.code else used


def _onnx(folder: Path) -> Outcome:
    return _tried(partial(cli.main, ["inspect", str(folder / "model.onnx"), "--target", "onnxruntime"]))


def _onnx_way(folder: Path) -> Outcome:
    """Written by every verb that writes graphs."""
    (folder / "r.yaml").write_text(RECIPE, encoding="utf-8")
    model, outcome = str(folder / "model.onnx"), Outcome()
    for words in (["export"], ["quantize", "-r", str(folder / "r.yaml")], ["compile", "--target", "onnxruntime"]):
        outcome = _with_output(partial(_tried, partial(cli.main, [words[0], model, *words[1:], "-o", f"{OUT}/graph"])), folder)
        if outcome.code:
            break
    return outcome


def _whole_way(folder: Path) -> Outcome:
    """Compressed into a bundle that then has to verify."""
    (folder / "r.yaml").write_text(RECIPE, encoding="utf-8")
    bundle = f"{OUT}/bundle"
    words = ["compress", str(folder / "model.onnx"), "-r", str(folder / "r.yaml"), "-o", bundle]
    outcome = _with_output(partial(_tried, partial(cli.main, words)), folder)
    if outcome.code in (0, 3):
        verified = _tried(partial(cli.main, ["verify", bundle]))
        if verified.code:
            outcome.findings.append(f"compress ended with {outcome.code}, and its bundle does not verify: {verified.text}")
    return outcome


def _with_output(call: Callable[[], Outcome], folder: Path) -> Outcome:
    """Nothing is left of a command that failed."""
    shutil.rmtree(folder / OUT, ignore_errors=True)
    (folder / OUT).mkdir()
    outcome = call()
    left = sorted(str(path.relative_to(folder)) for path in (folder / OUT).rglob("*"))
    hidden = [path for path in left if Path(path).name.startswith(".")]
    if hidden or (outcome.code == 1 and left):
        outcome.findings.append(f"it left {', '.join(hidden or left)}")
    return outcome


ENTRIES: dict[str, Callable[[Path], Outcome]] = {
    "card": _card, "recipe": _recipe, "manifest": _manifest, "run": _run_yaml, "played": _played, "bundle": _bundle, "onnx": _onnx,
    "onnx_way": _onnx_way, "whole_way": _whole_way,
}  # fmt: skip
