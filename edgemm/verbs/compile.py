"""`edgemm compile`: compile a graph or bundle for one target, here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgemm.box.bundle.golden import Golden, compare
from edgemm.box.bundle.golden import run as run_golden
from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.bundle.packing import SUFFIX, TargetOptions
from edgemm.box.measuring.tuning import tune
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.target import BuildsAhead, Target, fingerprint, forms
from edgemm.errors import EdgemmError, TargetError
from edgemm.pipeline import frontends, stages
from edgemm.pipeline.job import Job, samples, start
from edgemm.progress import Progress
from edgemm.report.terminal import Ending
from edgemm.store.artifact import Artifact, folder_in_one_step, require_writable, write_json


def compile(
    model: str | Path,
    *,
    target: str | None = None,
    output: str | Path | None = None,
    data: str | Path | None = None,
    aot: str | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile ``model`` for a target and choose its runtime options by measuring here.

    Args:
        model: An ONNX file, or a bundle.
        target: What it shall run on (see ``edgemm list targets``); without it a bundle's only target.
        output: Folder for what the target loads, with ``options.json``; an ONNX file needs one. A bundle's options go into the cache too,
            where every command finds them on this machine; the bundle itself is never written to.
        aot: Build for NVIDIA GPUs that are not here, such as ``SM86,SM120``: one TensorRT-RTX plan for all of them; nothing is timed.
        data: Where the sample to time with comes from; without it a bundle's golden one, for an ONNX file a seeded synthetic one.

    Raises:
        TargetError: The runtime is missing or refuses the graph.
        BundleError: The bundle is damaged, or holds nothing for the target.
        EdgemmError: Something is missing that this kind of model needs.
    """
    progress = progress or Progress()
    path = Path(model)
    if aot is not None:
        return _ahead(path, target, output, data, aot, progress)
    if path.suffix == SUFFIX or (path / "manifest.json").is_file():
        return _compile_bundle(open_bundle(path), target, Path(output) if output else None, progress)
    if target is None or output is None:
        missing = "--target" if target is None else "-o"
        raise EdgemmError(f"compiling an ONNX file needs {missing}.", fix=f"targets: {', '.join(plugins.names('targets'))}; -o DIR.")
    output = Path(output)
    require_writable(output)
    _require_here(plugins.load(Target, target), target)
    job = start(path, data, progress=progress)
    deployment = _with_frontends(job, target)
    with progress.stage(f"tune {target}"):
        tuned = tune(deployment, samples(job, 1)[0], progress=progress.update)
    return _write(deployment.running(tuned.options), output)


def ending(compiled: Artifact, *, model: str, output: str | None = None, aot: str | None = None, **_: Any) -> Ending:
    """What the command line says at the end."""
    command = (
        f"edgemm benchmark {compiled.main if output else model}" if aot is None else f"copy {compiled.main} to a machine with such a GPU."
    )
    return Ending(written=(compiled.main,), next=command)


def _with_frontends(job: Job, target: str) -> Deployment:
    """The graph with the front-ends that are fastest here, as ``compress`` chooses them, and its Q/DQ as the target computes it rightly."""
    exported = stages.export(job)
    fitted = frontends.fit(job, Deployment(target, exported.main))
    for words in fitted.words():
        job.progress.note(f"note: {words}")
    return Deployment(target, stages.settle(job, fitted.apply(job, exported), target).main)


def _compile_bundle(bundle: Bundle, target: str | None, output: Path | None, progress: Progress) -> Artifact:
    held = bundle.targets()
    if target is None and len(held) != 1:
        raise EdgemmError(f"this bundle holds {len(held)} targets.", fix=f"choose one: --target {' | '.join(held)}.")
    name = target or held[0]
    deployment, forbid = bundle.deployment(name), bundle.target_options(name).forbid
    plugin = deployment.plugin()
    golden = bundle.golden()
    if golden is None:
        raise EdgemmError("this bundle holds no golden samples to time with.", fix="pack it again with edgemm compress.")
    feed = golden.sample(0)
    _require_here(plugin, name)
    objection = _objection(deployment, golden, bundle.card)
    _build_each(deployment, frozenset(forbid), progress)
    with progress.stage(f"tune {name}"):
        tuned = tune(deployment, feed, forbid=frozenset(forbid), objection=objection, progress=progress.update)
    path = bundle.tuned_here(name, fingerprint(plugin))
    write_json(path, tuned.options)
    if output is None:
        return Artifact(path, {"target": name, "options": tuned.options})
    return _write(deployment.running(tuned.options), output, safe=deployment.runtime_options, forbid=forbid)


def _objection(deployment: Deployment, golden: Golden, card: Card) -> Callable[[dict[str, Any]], str] | None:
    """What speaks against runtime options: answers to golden samples beyond their tolerance. None where the bundle holds none for it."""
    name = deployment.target
    if name not in golden.outputs:
        return None

    def objection(options: dict[str, Any]) -> str:
        with deployment.running(options).open() as session:
            off = compare(run_golden(session, golden), golden.outputs[name], golden.tolerance.get(name, {}), card=card)
        worst = [output for output, (gap, allowed) in off.items() if gap > allowed]
        return f"its answers to the golden samples are off for '{worst[0]}'." if worst else ""

    return objection


def _build_each(deployment: Deployment, forbid: frozenset[str], progress: Progress) -> None:
    """Engines that take minutes are built one after the other before anything is timed; one that fails is told of by ``tune``."""
    target = deployment.plugin()
    if not isinstance(target, BuildsAhead):
        return
    for options in target.choices(forbid=forbid):
        words = ", ".join(f"{key} {value}" for key, value in options.items())
        with (
            progress.stage(f"build {deployment.target}, {words}"),
            tempfile.TemporaryDirectory(prefix="edgemm-") as aside,
            suppress(EdgemmError),
        ):
            target.compile(deployment.model, Path(aside), **options)


def _require_here(target: Target, name: str) -> None:
    if ".onnx" not in forms(name):
        files = ", ".join(f"*{ending}" for ending in forms(name)) or "no file of a graph"
        fix = f"choose one of {', '.join(each for each in plugins.names('targets') if '.onnx' in forms(each))}."
        raise TargetError(f"{name} is not a target to compile for.", why=f"it opens {files}.", fix=fix)
    if why := target.cannot_run():
        raise TargetError(
            f"{name} cannot be compiled for on this machine.",
            why=why,
            fix="run this command on the box; or, for an NVIDIA card of another machine, add --aot SM86 (TensorRT-RTX).",
        )


def _ahead(path: Path, name: str | None, output: str | Path | None, data: str | Path | None, aot: str, progress: Progress) -> Artifact:
    """Build for GPUs that are not here."""
    capabilities = [word.strip().upper() for word in aot.split(",") if word.strip()]
    if output is None or not capabilities:
        raise EdgemmError("building ahead of time needs -o and GPUs.", fix="edgemm compile MODEL --target tensorrt --aot SM86 -o DIR.")
    held = open_bundle(path) if path.suffix == SUFFIX or (path / "manifest.json").is_file() else None
    name = name or "tensorrt"
    plugin = held.deployment(name).plugin() if held else plugins.load(Target, name)
    if not isinstance(plugin, BuildsAhead):
        raise TargetError(f"target '{name}' builds nothing ahead of time.", fix="--target tensorrt, or leave --aot out.")
    require_writable(Path(output))
    model = held.deployment(name).model if held else stages.export(start(path, data, progress=progress)).main
    options = held.deployment(name).runtime_options if held else {}
    with progress.stage(f"build for {', '.join(capabilities)}"), folder_in_one_step(Path(output)) as scratch:
        artifact = plugin.ahead(model, scratch, capabilities, **options)
        main = artifact.main.name
    return Artifact(Path(output) / main, artifact.provenance)


def _write(deployment: Deployment, output: Path, *, safe: Mapping[str, Any] = MappingProxyType({}), forbid: Sequence[str] = ()) -> Artifact:
    """What the target makes of a deployment, and how to open it."""
    with folder_in_one_step(output) as scratch:
        artifact = deployment.plugin().compile(deployment.model, scratch, **deployment.runtime_options)
        (scratch / "options.json").write_bytes(TargetOptions.of_deployment(deployment, safe=safe, forbid=forbid).to_json())
        main = artifact.main.name
    return Artifact(output / main, artifact.provenance)
