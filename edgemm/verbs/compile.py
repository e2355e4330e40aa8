"""`edgemm compile`: make a target's own form of a model on this machine, with runtime options chosen by measurement here."""

from __future__ import annotations

from pathlib import Path

from edgemm import plugins, stages
from edgemm._bundle.packing import SUFFIX
from edgemm.artifact import Artifact, folder_in_one_step, require_writable, write_json
from edgemm.bundle import Bundle, TargetOptions, open_bundle
from edgemm.errors import EdgemmError
from edgemm.probes._tuning import tune
from edgemm.progress import Progress
from edgemm.targets._protocol import Target, fingerprint


def compile(
    model: str | Path,
    *,
    target: str | None = None,
    output: str | Path | None = None,
    data: str | Path | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile ``model`` for a target and choose its runtime options by measuring here.

    Args:
        model: An ONNX file, or a bundle.
        target: Plugin name; None = a bundle's only target.
        output: Folder for what the target loads, with ``options.json``; an ONNX file needs one. A bundle's options go into the cache too,
            where every command finds them on this machine; the bundle itself is never written to.
        data: Where the sample to time with comes from; None = a bundle's golden one, for an ONNX file a seeded synthetic one.

    Raises:
        TargetError: The runtime is missing or refuses the graph.
        BundleError: The bundle is damaged, or holds nothing for the target.
    """
    progress = progress or Progress()
    path = Path(model)
    if path.suffix == SUFFIX or (path / "manifest.json").is_file():
        return _compile_bundle(open_bundle(path), target, Path(output) if output else None, progress)
    if target is None or output is None:
        missing = "--target" if target is None else "-o"
        raise EdgemmError(f"compiling an ONNX file needs {missing}.", fix=f"targets: {', '.join(plugins.names('targets'))}; -o DIR.")
    output = Path(output)
    require_writable(output)
    job = stages.start(path, data, progress=progress)
    exported = stages.export(job)
    with progress.stage(f"tune {target}"):
        found = tune(target, exported.main, stages.samples(job, 1)[0], progress=progress.update)
    return _write(exported.main, target, TargetOptions(tuned=found.options), output)


def _compile_bundle(bundle: Bundle, target: str | None, output: Path | None, progress: Progress) -> Artifact:
    held = bundle.targets()
    if target is None and len(held) != 1:
        raise EdgemmError(f"this bundle holds {len(held)} targets.", fix=f"choose one: --target {' | '.join(held)}.")
    name = target or held[0]
    stored, model = bundle.target_options(name), bundle.target_model(name)
    golden = bundle.golden()
    if golden is None:
        raise EdgemmError("this bundle holds no golden samples to time with.", fix="pack it again with edgemm compress.")
    feed = golden.sample(0)
    with progress.stage(f"tune {name}"):
        found = tune(name, model, feed, forbid=frozenset(stored.forbid), target_options=stored.target, progress=progress.update)
    place = bundle.tuned_here(name, fingerprint(bundle.load_target(name)))
    write_json(place, found.options)
    if output is None:
        return Artifact(place, {"target": name, "options": found.options})
    return _write(model, name, TargetOptions(stored.target, stored.safe, found.options, forbid=stored.forbid), output)


def _write(model: Path, name: str, options: TargetOptions, output: Path) -> Artifact:
    target = plugins.find(Target, name)(**options.target)
    with folder_in_one_step(output) as scratch:
        made = target.compile(model, scratch, **options.tuned)
        (scratch / "options.json").write_bytes(TargetOptions(**{**vars(options), "fingerprint": fingerprint(target)}).to_json())
        main = made.main.name
    return Artifact(output / main, made.provenance)
