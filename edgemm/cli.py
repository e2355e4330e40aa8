"""The command line, built from the verbs: their signatures say what can be given, their docstrings what it means.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 our error, 2 usage, 3 done but not all of what was
asked for: a budget was missed, a live source or a sink of a run was never there.
"""

import ast
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from edgemm.contracts import options, plugins, signatures
from edgemm.contracts.signatures import Parameter, Signature

INTERRUPTED = 130
COMPLETING = "_EDGEMM_COMPLETE"  # the shell's completion sets it, and puts the words elsewhere than into the arguments
DEBUG = "EDGEMM_DEBUG"

NOT_TYPED = ("progress", "stop")
"""Parameters that only a caller in Python can give."""
SPELLED = {
    "recipe": ("--recipe", "-r"), "data": ("--data", "-d"), "output": ("--output", "-o"), "target": ("--target", "-t"),
    "targets": ("--target", "-t"), "config": ("--config", "-c"), "learning_rate": ("--learning-rate", "--lr"),
    "loss_weights": ("--loss-weight",), "budgets": ("--budget",), "inputs": ("--input",), "kwargs": ("--kwarg",), "batches": ("--batch",),
    "heads": ("--head",), "labels": ("--label",), "rules": ("--rule",),
    "track": ("--track",),
}  # fmt: skip
"""Options spelled otherwise than their parameter: with a short form, or in the singular because they are given one by one."""
SHOWN = {
    "loss_weights": "OUTPUT=FACTOR", "targets": "NAME", "inputs": "FORM", "kwargs": "KEY=VALUE", "source": "INPUTS=PLACE",
    "remote": "ssh://USER@HOST", "compare": "OLD NEW", "streams": "1,2,4", "batches": "1,8", "pace": "RATE", "aot": "GPUS",
    "web": "[HOST:]PORT", "stream": "FOLDER", "empty": "LABEL=SHARE", "budgets": "NAME=LIMIT", "heads": "'HEAD: MEMBER.OUTPUT, ...'",
    "labels": "'LABEL: OTHER, ...'", "rules": "'HEAD: RULE'", "track": "TRACKER:PLACE", "group": "COLUMN", "against": "FOLDER",
    "config": "FILE", "measure": "local|ssh://USER@HOST", "ray": "auto|HOST:PORT", "row": "NUMBER",
}  # fmt: skip
"""What a help page shows where the type alone says too little."""
LEAST = {
    "epochs": 1, "steps": 1, "batch_size": 1, "patience": 0, "rounds": 1, "calls": 1, "launches": 0, "limit": 1, "seconds": 0.1,
    "trials": 1, "workers": 1, "processes": 1, "accumulate": 1, "minutes": 0, "folds": 2,
}  # fmt: skip
TYPES: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "str": str, "Path": Path, "str | Path": str, "Sequence[str]": list[str],
    "Sequence[str | Path]": list[str], "tuple[str | Path, str | Path]": tuple[str, str], "Sequence[int]": str,
    "Sequence[str | int]": list[str], "Mapping[str, float]": list[str], "Mapping[str, Any] | Sequence[str]": list[str],
}  # fmt: skip
"""A parameter's type in Python, and the one it is typed as."""
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the result as Markdown.")]


def main(arguments: list[str] | None = None) -> None:
    """Run one command. Always ends in SystemExit with the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    is_debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"]
    command = next((word for word in words if not word.startswith("-")), "")
    app = application(plugins.names("verbs") if COMPLETING in os.environ else [command])
    try:
        with _debugging() if is_debug else nullcontext():
            app(words, prog_name="edgemm")
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        if is_debug:
            raise
        from edgemm.report import terminal

        typer.echo(terminal.words(error), err=True)
        raise SystemExit(1) from None


@contextmanager
def _debugging() -> Iterator[None]:
    """Libraries are not silenced, in worker processes neither."""
    before = os.environ.get(DEBUG)
    os.environ[DEBUG] = "1"
    try:
        yield
    finally:
        os.environ.pop(DEBUG)
        os.environ |= {} if before is None else {DEBUG: before}


def application(verbs: Sequence[str]) -> typer.Typer:
    """All commands. Only ``verbs`` have their options: each costs a look into its file, and one is run at a time."""
    app = typer.Typer(
        name="edgemm",
        help="Make a trained multimodal model small and fast, prove what it cost, and run it on the box.",
        no_args_is_help=True,
        rich_markup_mode=None,  # `edgemm --help` costs 0.09 s without it, 0.29 s with it
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_edgemm)
    for name in plugins.names("verbs"):
        summary = signatures.summary(plugins.source("verbs", name))
        command, about = _command(name) if name in verbs else (lambda: None, "")
        app.command(name, short_help=summary[:1].upper() + summary[1:], help=about)(command)
    return app


def _print_version(version: bool) -> None:
    if version:
        from edgemm import __version__

        typer.echo(__version__)
        raise typer.Exit


def _edgemm(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and stop.", callback=_print_version)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what libraries write; may stand anywhere.")] = False,
) -> None:
    pass  # both options have done their work by now


def _command(name: str) -> tuple[Callable[..., None], str]:
    """A verb as a function that Typer can read, and what its help page says first."""
    signature = signatures.read(plugins.source("verbs", name), name)
    typed = [parameter for parameter in signature.parameters if parameter.name not in NOT_TYPED]

    def command(*, json: bool = False, markdown: bool = False, **values: Any) -> None:
        arguments = {
            parameter.name: _value(parameter, values[parameter.name]) for parameter in typed if values[parameter.name] not in (None, [])
        }
        if json and "quiet" in values:
            arguments["quiet"] = True
        _run(name, signature, arguments, json=json, markdown=markdown)

    switches = {"json": Json} | ({"markdown": Markdown} if "Report" in signature.returns else {})
    shown = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=switch) for key, switch in switches.items()]
    command.__signature__ = inspect.Signature([*map(_parameter, typed), *shown])  # type: ignore[attr-defined]
    return command, _plain(signature.about)


def _run(name: str, signature: Signature, arguments: dict[str, Any], *, json: bool, markdown: bool) -> None:
    """Call the verb and print what it says at its end: ``ending`` of its file, or its result alone."""
    from edgemm.contracts import launched

    if not launched.is_first() and not plugins.constant("verbs", name, "TOGETHER"):
        return  # a launcher started the command several times, and one process does it
    from edgemm.contracts.libraries import quiet_imports, quiet_warnings
    from edgemm.progress import Progress, on_stderr
    from edgemm.report.terminal import Ending, conclude

    with quiet_imports(), quiet_warnings():
        verb = plugins.function("verbs", name)
        if "progress" in (parameter.name for parameter in signature.parameters):
            with on_stderr() if launched.is_first() else Progress() as progress:
                result, on_screen = verb(**arguments, progress=progress), progress.on_screen
        else:
            result, on_screen = verb(**arguments), []
        if not launched.is_first():
            return
        ending = getattr(plugins.import_plugin("verbs", name), "ending", None)
        code = conclude(ending(result, **arguments) if ending else Ending(result), json=json, markdown=markdown, on_screen=on_screen)
    if code:
        raise typer.Exit(code)


def _parameter(parameter: Parameter) -> inspect.Parameter:
    """A verb's parameter as Typer reads it; None = not typed, so that the verb's own default holds."""
    is_required = parameter.default is plugins.REQUIRED
    default = inspect.Parameter.empty if is_required else None if parameter.default in ((), ...) else parameter.default
    kind, about = _type(parameter), _plain(parameter.meaning)
    if parameter.is_keyword or parameter.name in SPELLED:
        spelled = f"--{parameter.name.replace('_', '-')}"
        switch = f"{spelled}/--no-{spelled[2:]}" if default is True else spelled
        names = SPELLED.get(parameter.name, (switch,))
        info: Any = typer.Option(*names, help=about, metavar=SHOWN.get(parameter.name), min=LEAST.get(parameter.name))
    else:
        info = typer.Argument(help=about, metavar=parameter.name.upper())
    kind = kind if default is not None else Optional[kind]  # noqa: UP045  a type known at run time only
    return inspect.Parameter(parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _type(parameter: Parameter) -> Any:
    if values := options.choices(parameter.annotation):
        return Literal[tuple(values)]
    return TYPES[_words(parameter)]


def _words(parameter: Parameter) -> str:
    """The type as the source has it, without that it may be left out."""
    return ast.unparse(parameter.annotation).removesuffix(" | None")


def _value(parameter: Parameter, typed: Any) -> Any:
    """What was typed as the verb takes it: ``1,2,4`` and ``level=0.5`` are lists and mappings there.

    Raises:
        typer.BadParameter: It is neither.
    """
    option = SPELLED.get(parameter.name, (f"--{parameter.name}",))[0]
    match _words(parameter):
        case "Sequence[int]":
            numbers = [int(word) if word.strip().isdigit() else 0 for word in typed.split(",")]
            if min(numbers) < 1:
                raise typer.BadParameter(f"'{typed}' is not a list of whole numbers, such as 1,2,4.", param_hint=option)
            return numbers
        case "Mapping[str, float]":
            try:
                return {name: float(value) for name, _, value in (word.partition("=") for word in typed)}
            except ValueError:
                raise typer.BadParameter(
                    f"'{' '.join(typed)}' is not {SHOWN[parameter.name]}, such as level=0.5.", param_hint=option
                ) from None
    return typed


def _plain(text: str) -> str:
    """Without Python's marks."""
    return text.replace("``", "")
