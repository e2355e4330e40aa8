"""The command line: each command imports its verb, calls it, and prints what was written and the next command.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 our error, 2 usage, 3 done but a budget was missed.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgemm.verbs import _printing

INTERRUPTED = 130

CardArgument = Annotated[str, typer.Argument(help="A model.yaml, a folder with one, an .onnx file, a shipped card's name.", metavar="CARD")]
ModelArgument = Annotated[Path, typer.Argument(help="An ONNX file or a bundle.", metavar="ONNX|BUNDLE")]
Recipe = Annotated[str, typer.Option("--recipe", "-r", help="A recipe file, or the name of a shipped one (see `edgemm list recipes`).")]
Data = Annotated[str, typer.Option("--data", "-d", help="A folder with a manifest or <split>.npz files, or module:callable.")]
MaybeData = Annotated[str | None, typer.Option("--data", "-d", help="A folder with a manifest or <split>.npz files, or module:callable.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where the result goes; what stood there is replaced.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
SkipBadRows = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be read, and report them, instead of stopping.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

app = typer.Typer(
    name="edgemm",
    help="Make a trained multimodal model small and fast, prove what it cost, and run it on the box.",
    no_args_is_help=True,
    rich_markup_mode=None,  # `edgemm --help` costs 0.09 s without it, 0.29 s with it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> None:
    """Run one command. Always ends in SystemExit with the exit code."""
    import sys
    import warnings

    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")  # what torch deprecates is no news to the user of a command
        try:
            app([word for word in arguments if word != "--debug"], prog_name="edgemm")
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            if debug:
                raise
            typer.echo(_printing.words(error), err=True)
            raise SystemExit(1) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from edgemm import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def edgemm(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error; may stand anywhere.")] = False,
) -> None:
    pass  # both options have done their work by now


@app.command()
def demo(output: Output = Path("build/demo"), json: Json = False) -> None:
    """Show it all on a small model made on the spot."""
    from edgemm.progress import on_stderr
    from edgemm.verbs.demo import demo as verb

    with on_stderr() as progress:
        done = verb(output, progress=progress)
    _printing.wrote(done.bundle, json)
    _printing.conclude(done.report, json, f"open {done.page} in a browser; then: edgemm verify {done.bundle}", shown=done)


@app.command()
def init(
    factory: Annotated[str, typer.Argument(help="module:function, file.py:function, or a Hugging Face folder.", metavar="MODULE:FACTORY")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="In forward() order: image=3x64x64, audio=16000@16000hz, imu=50x6@50hz, text=tokens:16.", metavar="FORM"
        ),
    ] = None,
    kwargs: Annotated[list[str] | None, typer.Option("--kwarg", help="For the factory; may be repeated.", metavar="KEY=VALUE")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The card to write; never replaces one.")] = Path("model.yaml"),
) -> None:
    """Draft a model card by running your factory."""
    from edgemm.verbs.init import init as verb

    card = verb(factory, inputs=inputs or (), kwargs=kwargs or (), output=output)
    _printing.wrote(card)
    _printing.suggest(f"fill in the lines that end in '# FILL IN', then: edgemm train {card} -d DATA -o runs/mine")


@app.command()
def train(
    card: CardArgument,
    data: Data,
    output: Output,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the train split; without it 20, more if it is small.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr")] = 1e-3,
    schedule: Annotated[Literal["cosine", "step"], typer.Option(help="How the learning rate falls.")] = "cosine",
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after so many epochs without a better one on val.")] = None,
    loss_weight: Annotated[
        list[str] | None, typer.Option(help="Factor of an output's loss; may be repeated.", metavar="OUTPUT=FACTOR")
    ] = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"], typer.Option()] = "no",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew even where a stopped run could go on.")] = False,
    skip_bad_rows: SkipBadRows = False,
    json: Json = False,
) -> None:
    """Train a card's model; the best weights on val stay."""
    from edgemm.progress import on_stderr
    from edgemm.verbs.train import train as verb

    with on_stderr() as progress:
        done = verb(
            card,
            data=data,
            output=output,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            patience=patience,
            loss_weights=_factors(loss_weight or []),
            seed=seed,
            device=device,
            mixed_precision=mixed_precision,
            fresh=fresh,
            skip_bad_rows=skip_bad_rows,
            progress=progress,
        )
    _printing.show(done, json)
    _printing.wrote(output, json)
    _printing.suggest(f"edgemm compress {output / 'model.yaml'} -r openvino-int8 -d {data} -o build/{output.name}", json)


def _factors(words: list[str]) -> dict[str, float]:
    """``["level=0.5"]`` -> ``{"level": 0.5}``."""
    factors = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            factors[name] = float(value)
        except ValueError:
            raise typer.BadParameter(f"'{word}' is not OUTPUT=FACTOR, such as level=0.5.", param_hint="--loss-weight") from None
    return factors


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A card, an ONNX file or a bundle.")],
    data: MaybeData = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Measure shares of latency there.")] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Also what each head loses when one branch is pruned, or runs in INT8; needs data.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Estimate the latency on a board that is not here, such as orin-nano-8gb-super.", metavar="BOARD")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for report.json and report.html.")] = None,
    json: Json = False,
) -> None:
    """Show what each branch of a model costs, and what it bears."""
    from edgemm.progress import on_stderr
    from edgemm.verbs.inspect import inspect as verb

    with on_stderr() as progress:
        found = verb(model, data=data, target=target, sensitivity=sensitivity, device=device, output=output, progress=progress)
    _printing.show(found, json)
    if output:
        _printing.wrote(output, json)


@app.command()
def compress(
    card: CardArgument,
    recipe: Recipe,
    output: Output,
    data: MaybeData = None,
    sign: Annotated[Path | None, typer.Option(help="ed25519 private key (PEM) to sign the bundle with.", metavar="KEY")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Also write the compressed float model here: model.yaml and weights, to compress again.", metavar="DIR"),
    ] = None,
    seed: Seed = 0,
    skip_bad_rows: SkipBadRows = False,
    json: Json = False,
) -> None:
    """Go the whole way: card to measured bundle."""
    from edgemm.progress import on_stderr
    from edgemm.verbs.compress import compress as verb

    with on_stderr() as progress:
        done = verb(
            card,
            recipe=recipe,
            data=data,
            output=output,
            sign=sign,
            checkpoint=checkpoint,
            seed=seed,
            skip_bad_rows=skip_bad_rows,
            progress=progress,
        )
    for path in filter(None, (done.bundle, done.checkpoint)):
        _printing.wrote(path, json)
    _printing.conclude(done.report, json, f"edgemm verify {done.bundle}")


@app.command()
def export(
    card: CardArgument,
    output: Output,
    data: MaybeData = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset; without it, one that all targets take.")] = None,
) -> None:
    """Write the float ONNX graph, front-end included."""
    from edgemm.progress import on_stderr
    from edgemm.verbs.export import export as verb

    with on_stderr() as progress:
        made = verb(card, output=output, data=data, opset=opset, progress=progress)
    _printing.wrote(made.main)
    _printing.suggest(f"edgemm quantize {made.main} -r openvino-int8 -d {data or 'DATA'} -o {output}")


@app.command()
def quantize(
    onnx: Annotated[Path, typer.Argument(help="An ONNX file; a model.yaml beside it that names it is its card.", metavar="ONNX")],
    recipe: Recipe,
    output: Output,
    data: MaybeData = None,
) -> None:
    """Apply a recipe's graph steps, for each target."""
    from edgemm.progress import on_stderr
    from edgemm.verbs.quantize import quantize as verb

    with on_stderr() as progress:
        made = verb(onnx, recipe=recipe, output=output, data=data, progress=progress)
    for path in made:
        _printing.wrote(path)
    _printing.suggest(f"edgemm compile {made[0]} --target {made[0].parent.name} -o {made[0].parent}/compiled")


@app.command("compile")
def compile_(
    model: ModelArgument,
    target: Annotated[str | None, typer.Option("--target", "-t", help="What it shall run on (see `edgemm list targets`).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the result; a bundle's goes into the cache.")] = None,
    data: MaybeData = None,
    aot: Annotated[
        str | None, typer.Option(help="Build for NVIDIA GPUs that are not here (TensorRT-RTX), such as SM86,SM120.", metavar="GPUS")
    ] = None,
) -> None:
    """Compile a graph or bundle for one target, here."""
    from edgemm.progress import on_stderr
    from edgemm.verbs.compile import compile as verb

    with on_stderr() as progress:
        made = verb(model, target=target, output=output, data=data, aot=aot, progress=progress)
    _printing.wrote(made.main)
    _printing.suggest(
        f"edgemm benchmark {made.main if output else model}" if aot is None else f"copy {made.main} to a machine with such a GPU."
    )


@app.command()
def benchmark(
    candidates: Annotated[
        list[str] | None,
        typer.Argument(
            help="Bundles, ONNX files, cards, OpenVINO IR, TensorRT plans, torch-compile:CARD, 'command:PROGRAM ...'; the first is what "
            "the others are held against."
        ),
    ] = None,
    data: MaybeData = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Measure on this target only.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for report.json and report.html.")] = None,
    pace: Annotated[str | None, typer.Option(help="Also at this pace: 5hz, or image=10hz,audio=1hz.", metavar="RATE")] = None,
    streams: Annotated[str | None, typer.Option(help="Also the throughput of so many parallel streams.", metavar="1,2,4")] = None,
    batches: Annotated[str | None, typer.Option("--batch", help="Also the throughput of so many samples a call.", metavar="1,8")] = None,
    roofline: Annotated[bool, typer.Option("--roofline/--no-roofline", help="Hold branches against the box's peaks.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; candidates take turns in each.")] = 16,
    calls: Annotated[int, typer.Option(min=1, help="Timed calls of a candidate in a round.")] = 40,
    seconds: Annotated[float, typer.Option(min=0.1, help="Most seconds of timed calls for one candidate.")] = 20.0,
    launches: Annotated[int, typer.Option(min=0, help="Processes of a candidate that share the rounds; 0 = one, no cold start.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Accuracy on the first rows of test only.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Measure nothing: hold the second report.json against the first.", metavar="OLD NEW")
    ] = None,
    remote: Annotated[str | None, typer.Option(help="Measure one bundle on another machine, over ssh.", metavar="ssh://USER@HOST")] = None,
    setup: Annotated[bool, typer.Option("--setup", help="With --remote: first install there what is missing, in a venv.")] = False,
    fallback: Annotated[bool, typer.Option("--fallback", help="With --remote: ONNX Runtime where no other runtime is there.")] = False,
    ssh_config: Annotated[Path | None, typer.Option(help="With --remote: ssh's configuration file.", metavar="FILE")] = None,
    seed: Seed = 0,
    skip_bad_rows: SkipBadRows = False,
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the result as Markdown.")] = False,
) -> None:
    """Measure candidates side by side, or compare two reports."""
    from edgemm.progress import on_stderr
    from edgemm.verbs.benchmark import benchmark as verb
    from edgemm.verbs.benchmark import compare as hold

    if compare is not None:
        _printing.conclude(hold(*compare), json, "", markdown=markdown)
        return
    with on_stderr() as progress:
        report = verb(
            candidates or [],
            data=data,
            target=target,
            output=output,
            pace=pace,
            streams=_counts(streams, "--streams"),
            batches=_counts(batches, "--batch"),
            roofline=roofline,
            rounds=rounds,
            calls=calls,
            seconds=seconds,
            launches=launches,
            limit=limit,
            seed=seed,
            skip_bad_rows=skip_bad_rows,
            remote=remote,
            setup=setup,
            fallback=fallback,
            ssh_config=ssh_config,
            progress=progress,
        )
    if output:
        _printing.wrote(output, json or markdown)
    _printing.conclude(report, json, f"open {output / 'report.html'} in a browser" if output else "", markdown=markdown)


def _counts(words: str | None, option: str) -> list[int] | None:
    """``"1,2,4"`` -> ``[1, 2, 4]``."""
    if words is None:
        return None
    found = [int(word) if word.strip().isdigit() else 0 for word in words.split(",")]
    if min(found) < 1:
        raise typer.BadParameter(f"'{words}' is not a list of whole numbers, such as 1,2,4.", param_hint=option)
    return found


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder or .edgemm file.", metavar="BUNDLE")],
    key: Annotated[Path | None, typer.Option(help="ed25519 public key (PEM) the bundle must be signed with.", metavar="PUB")] = None,
    json: Json = False,
) -> None:
    """Check a bundle's files, signature and answers."""
    from edgemm.verbs.verify import verify as verb

    _printing.show(verb(bundle, key=key), json)


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder or .edgemm file.", metavar="BUNDLE")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="run.yaml: sources, rates, decisions, sinks.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="image,audio=rtsp://host/live; a file, a folder, /dev/video0, microphone, mqtt://host/topic. May be repeated.",
            metavar="INPUTS=PLACE",
        ),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Where it runs; else the first that this box has.")] = None,
    jsonl: Annotated[Path | None, typer.Option(help="Append events to this file.", metavar="FILE")] = None,
    mqtt: Annotated[str | None, typer.Option(help="Broker to publish to: mqtt://host:1883, with TLS mqtts://.", metavar="BROKER")] = None,
    web: Annotated[str | None, typer.Option(help="Serve the page on this port.", metavar="[HOST:]PORT")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing while it runs.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Play recordings as fast as this box can.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so long.")] = None,
    supervise: Annotated[bool, typer.Option("--supervise", help="Start it again when it crashes or hangs.")] = False,
    install_service: Annotated[bool, typer.Option("--install-service", help="Only write a systemd unit for this command.")] = False,
    json: Json = False,
) -> None:
    """Serve a bundle here: cameras and microphones to events."""
    from edgemm.verbs.run import run as verb

    done = verb(
        bundle,
        config=config,
        source=source or (),
        target=target,
        jsonl=jsonl,
        mqtt=mqtt,
        web=web,
        quiet=quiet or json,
        fast=fast,
        seconds=seconds,
        supervise=supervise,
        install_service=install_service,
    )
    _printing.show(done, json)


@app.command()
def deploy(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder or .edgemm file.", metavar="BUNDLE")],
    remote: Annotated[str, typer.Option(help="The box.", metavar="ssh://USER@HOST")],
    to: Annotated[str, typer.Option(help="Path of the bundle there: what `edgemm run` was started with.", metavar="PATH")],
    command: Annotated[str, typer.Option(help="How edgemm is called there.")] = "edgemm",
    reload: Annotated[
        str | None, typer.Option(help="Line for the shell there: systemctl reload edgemm-porch, or kill -HUP.", metavar="LINE")
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="The page's status, as seen from there: http://127.0.0.1:8099/status.", metavar="URL")
    ] = None,
    ssh_config: Annotated[Path | None, typer.Option(help="ssh's configuration file.", metavar="FILE")] = None,
    json: Json = False,
) -> None:
    """Put a bundle on a box; proved there before it serves."""
    from edgemm.progress import on_stderr
    from edgemm.verbs.deploy import deploy as verb

    with on_stderr() as progress:
        done = verb(bundle, remote=remote, to=to, command=command, reload=reload, status=status, ssh_config=ssh_config, progress=progress)
    _printing.show(done, json)


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="One kind only, such as targets; or one variant, such as audio.")] = None,
    name: Annotated[str | None, typer.Argument(help="A variant of that kind: what options it takes.")] = None,
    json: Json = False,
) -> None:
    """List what a card or recipe may name, and its options."""
    from edgemm.verbs.list import list as verb

    _printing.show(verb(kind, name), json)


@app.command()
def cache(
    tidy: Annotated[bool, typer.Option("--tidy", help="Remove what is over the limit, and leftovers of killed runs.")] = False,
    empty: Annotated[bool, typer.Option("--empty", help="Remove everything that no running process uses.")] = False,
    json: Json = False,
) -> None:
    """Look at the cache of finished stages, tidy or empty it."""
    from edgemm.verbs.cache import cache as verb

    _printing.show(verb(tidy=tidy, empty=empty), json)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine can do."""
    from edgemm.verbs.doctor import doctor as verb

    _printing.show(verb(), json)
