"""The forms of a model that are measured beside each other on one target: its float graph in f32, as the runtime runs it, compressed."""

from __future__ import annotations

from dataclasses import replace

from edgemm.box.measuring.candidate import Candidate
from edgemm.contracts.deployment import Deployment


def baselines(deployment: Deployment, *, source: str = "") -> list[Candidate]:
    """What the compressed form is held against: the float graph forced to f32, and as the runtime runs it by itself where that may differ.

    A baseline is the runtime left alone. So it shares what a recipe says of *where* a model runs (the device, sizes to build for), and
    none of what decides *how*: whatever ``Target.choices`` decides among (threads, precision) is the compressed form's own, no matter
    whether it was measured or is fixed by the recipe. Bound to the recipe's two threads, a baseline would hide that the runtime by itself
    takes all cores; bound to its bf16, it would not be what it is called.

    Args:
        deployment: The float graph on its target, with the target's options as the recipe gives them.
        source: What the forms belong to, as the user knows it.
    """
    chosen = {name for choice in deployment.plugin().choices() for name in choice}
    alone = replace(deployment, options={name: value for name, value in deployment.options.items() if name not in chosen})
    plugin = alone.plugin()
    forms = {"float": ("f32", plugin.float_options())}
    if plugin.default_options() != plugin.float_options():
        forms["default"] = ("default", plugin.default_options())
    return [
        Candidate(_name(source, f"{deployment.target} {subject}"), subject, alone.running(options), precision, source)
        for subject, (precision, options) in forms.items()
    ]


def compressed(deployment: Deployment, name: str, *, source: str = "") -> Candidate:
    """A target's own graph with its runtime options, which has to run in the precision that these ask for."""
    return Candidate(_name(source, name), "bundle", deployment, precision_asked(deployment), source)


def precision_asked(deployment: Deployment) -> str:
    """The precision a model asks for: its Q/DQ nodes, its weights in few bits, and the float option beside them."""
    floats = str({**deployment.options, **deployment.runtime_options}.get("precision", "f32"))
    return "+".join([*deployment.plugin().describe(deployment.model).precision_words, floats])


def _name(source: str, words: str) -> str:
    return f"{source}, {words}" if source else words
