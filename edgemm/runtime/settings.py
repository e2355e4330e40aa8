"""``run.yaml``: what feeds a bundle, how it decides, where decisions go. Checked whole before anything runs."""

from __future__ import annotations

import ast
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from edgemm import plugins
from edgemm.card import Card
from edgemm.errors import Collector, RunError, nearest
from edgemm.options import check
from edgemm.plugins import Option
from edgemm.runtime.secrets import refuse_password

KEYS = ("name", "target", "decide_hz", "whole", "inputs", "sources", "sinks", "decisions", "web", "drift")
SOURCES, SINKS = "runtime/sources", "runtime/sinks"
WEB_ENV = "EDGEMM_WEB_TOKEN"
BROKER_ENV = {"user_env": "EDGEMM_MQTT_USER", "password_env": "EDGEMM_MQTT_PASSWORD"}
NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


@dataclass(frozen=True)
class InputSettings:
    """How an input is served.

    Attributes:
        rate_hz: Most runs of its branch a second; None = as fast as decisions are taken.
        stale_s: What is older counts as missing; None = 3 periods of its rate, at least 2 s (a text: never).
        value: A text or numbers that never change; its branch runs once.
        precision: ``fp32`` runs this branch in float; None = as compressed.
        target: Another runtime for this branch alone.
    """

    rate_hz: float | None = None
    stale_s: float | None = None
    value: str | float | list[float] | None = None
    precision: Literal["int8", "fp32"] | None = None
    target: str | None = None


@dataclass(frozen=True)
class DecisionSettings:
    """When an output's class is on.

    Attributes:
        threshold: Score from which a class counts as seen (0 to 1; an embedding: -1 to 1).
        release: Score below which it counts as gone; None = 0.1 below the threshold.
        debounce: Decisions in a row that must agree before a class goes on or off.
        cool_down_s: After an event of a class no other of the same class for so long.
        quiet: Classes that are never an event, such as "nothing".
        classes: Class -> its own threshold, release, debounce, cool_down_s.
        change: A number (regression) is told again when it moved by so much; None = 1% of its value.
    """

    threshold: float = 0.6
    release: float | None = None
    debounce: int = 2
    cool_down_s: float = 10.0
    quiet: list[str] = field(default_factory=list)
    classes: dict[str, dict] = field(default_factory=dict)
    change: float | None = None


@dataclass(frozen=True)
class WebSettings:
    """The page. ``bind`` other than this machine itself needs a token, from an environment variable or a file."""

    port: int = 8099
    bind: str = "127.0.0.1"
    token_env: str | None = None
    token_file: str | None = None
    pictures_hz: float = 5.0


@dataclass(frozen=True)
class DriftSettings:
    """The drift watch.

    Attributes:
        window: Samples that are compared with the calibration at a time.
        limit: How far, in standard deviations of the training data, a mean may move before it is told.
        save: Folder for samples to calibrate anew with; None = nothing is recorded.
        save_mib: Most that folder may hold.
        key_env, key_file: Key (32 bytes as 64 hex digits) to encrypt them with.
    """

    window: int = 200
    limit: float = 3.0
    save: str | None = None
    save_mib: float = 64.0
    key_env: str | None = None
    key_file: str | None = None


@dataclass(frozen=True)
class Part:
    """A source or sink: its plugin and its options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """A checked ``run.yaml``.

    Attributes:
        name: The device's name, in topics and on the page.
        decide_hz: Most decisions a second.
        whole: Run the model as one graph even where the bundle holds its parts; then every input must be there.
    """

    name: str = "edgemm"
    target: str | None = None
    decide_hz: float = 5.0
    whole: bool = False
    inputs: Mapping[str, InputSettings] = field(default_factory=dict)
    sources: tuple[Part, ...] = ()
    sinks: tuple[Part, ...] = ()
    decisions: Mapping[str, DecisionSettings] = field(default_factory=dict)
    web: WebSettings | None = None
    drift: DriftSettings | None = None

    def input(self, name: str) -> InputSettings:
        return self.inputs.get(name, InputSettings())

    def rate_hz(self, name: str) -> float:
        return self.input(name).rate_hz or self.decide_hz

    def stale_s(self, name: str, card: Card) -> float:
        given = self.input(name)
        if given.stale_s is not None:
            return given.stale_s
        return float("inf") if card.inputs[name].modality == "text" or given.value is not None else max(2.0, 3 / self.rate_hz(name))

    def fed(self) -> dict[str, int]:
        """Input -> place of the source that feeds it."""
        return {name: place for place, part in enumerate(self.sources) for name in _names(part.options.get("inputs"))}


def load(path: str | Path | None, card: Card, *, extra: Mapping[str, Any] | None = None) -> Settings:
    """Read ``run.yaml`` and check it against the model; without a path the defaults, and what the command line says.

    Args:
        extra: What the command line adds, in the form of ``run.yaml``; lists are added to the file's, other values win over it.

    Raises:
        RunError: One mistake. Mistakes: all of them.
    """
    plain: Any = {}
    if path is not None:
        try:
            plain = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
            raise RunError(f"cannot read {path}.", why=" ".join(str(err).split()), fix="mend the place it names.") from err
    return parse(_joined(plain, extra or {}), card, where=str(path) if path else "run")


def parse(plain: Any, card: Card, *, where: str = "run.yaml") -> Settings:
    """Make Settings of plain values, reporting every mistake at once.

    Raises:
        RunError, Mistakes: As ``load``.
    """
    if not isinstance(plain, dict):
        raise RunError(f"{where} is not a mapping.", fix=f"it has the keys {', '.join(KEYS)}.")
    found = Collector()
    for key in plain:
        if key not in KEYS:
            found.add(RunError(f"{where}: unknown key '{key}'.", fix=nearest(str(key), KEYS)))
    settings = Settings(
        name=_device_name(plain.get("name", "edgemm"), where, found),
        target=_target(plain.get("target"), f"{where}: target", found),
        decide_hz=_positive(plain.get("decide_hz", 5.0), f"{where}: decide_hz", found),
        whole=_yes_or_no(plain.get("whole", False), f"{where}: whole", found),
        inputs=_inputs(plain.get("inputs"), card, where, found),
        sources=_parts(plain.get("sources"), SOURCES, where, found),
        sinks=_parts(plain.get("sinks"), SINKS, where, found),
        decisions=_decisions(plain.get("decisions"), card, where, found),
        web=_section(WebSettings, plain.get("web"), f"{where}: web", found) if "web" in plain else None,
        drift=_section(DriftSettings, plain.get("drift"), f"{where}: drift", found) if "drift" in plain else None,
    )
    _check_sources(settings, card, where, found)
    found.raise_if_any()
    return settings


def _joined(plain: Any, extra: Mapping[str, Any]) -> Any:
    if not isinstance(plain, dict):
        return plain
    joined = dict(plain)
    for key, value in extra.items():
        before = joined.get(key)
        joined[key] = [*(before or []), *value] if isinstance(value, list) and (before is None or isinstance(before, list)) else value
        if isinstance(value, dict) and isinstance(before, dict):
            joined[key] = {**before, **value}
    return joined


def _device_name(value: Any, where: str, found: Collector) -> str:
    if not isinstance(value, str) or not value or not set(value) <= NAME:
        found.add(
            RunError(
                f"{where}: name {value!r} cannot be used.", why="it stands in topics and ids.", fix="use letters, digits, _ and - only."
            )
        )
    return str(value)


def _target(value: Any, where: str, found: Collector) -> str | None:
    if value is not None and value not in plugins.names("targets"):
        found.add(RunError(f"{where}: there is no target '{value}'.", fix=nearest(str(value), plugins.names("targets"))))
    return value


def _positive(value: Any, where: str, found: Collector) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        found.add(RunError(f"{where}: {value!r} is not a number above 0.", fix="write a number, such as 5."))
        return 1.0
    return float(value)


def _yes_or_no(value: Any, where: str, found: Collector) -> bool:
    if not isinstance(value, bool):
        found.add(RunError(f"{where}: {value!r} is neither true nor false.", fix="write true or false."))
    return value is True


def _section(kind: type, value: Any, where: str, found: Collector) -> Any:
    """One of the dataclasses above from its mapping; its own defaults where that is wrong."""
    value = {} if value is None else value
    if not isinstance(value, dict):
        found.add(RunError(f"{where} is not a mapping.", fix=f"it has the keys {', '.join(_declared(kind))}."))
        return kind()
    errors = check(value, _declared(kind), where, RunError)
    for error in errors:
        found.add(error)
    if errors:
        return kind()
    made = kind(**value)
    for key in ("rate_hz", "stale_s", "window", "limit", "save_mib", "pictures_hz"):
        if getattr(made, key, None) is not None:
            _positive(getattr(made, key), f"{where}.{key}", found)
    return made


def _declared(kind: type) -> dict[str, Option]:
    """What a settings dataclass takes, for ``options.check``."""
    return {f.name: Option(f.name, ast.parse(str(f.type), mode="eval").body, None) for f in dataclasses.fields(kind)}


def _inputs(plain: Any, card: Card, where: str, found: Collector) -> dict[str, InputSettings]:
    made = {}
    for name, value in _mapping(plain, f"{where}: inputs", found).items():
        if name not in card.inputs:
            found.add(RunError(f"{where}: inputs.{name} is no input of this model.", fix=nearest(str(name), card.inputs)))
            continue
        made[name] = _section(InputSettings, value, f"{where}: inputs.{name}", found)
        _target(made[name].target, f"{where}: inputs.{name}.target", found)
    return made


def _decisions(plain: Any, card: Card, where: str, found: Collector) -> dict[str, DecisionSettings]:
    made = {}
    for name, value in _mapping(plain, f"{where}: decisions", found).items():
        here = f"{where}: decisions.{name}"
        if name not in card.outputs:
            found.add(RunError(f"{here} is no output of this model.", fix=nearest(str(name), card.outputs)))
            continue
        made[name] = given = _section(DecisionSettings, value, here, found)
        labels = card.outputs[name].labels or ()
        for label in (*given.quiet, *given.classes):
            if label not in labels:
                found.add(RunError(f"{here}: '{label}' is no class of this output.", fix=nearest(str(label), labels)))
        for label, own in given.classes.items():
            for error in check(
                own, {k: v for k, v in _declared(DecisionSettings).items() if k in PER_CLASS}, f"{here}.classes.{label}", RunError
            ):
                found.add(error)
        _check_thresholds(given, here, found)
    return made


PER_CLASS = ("threshold", "release", "debounce", "cool_down_s")


def _check_thresholds(given: DecisionSettings, here: str, found: Collector) -> None:
    for where, own in ((here, {}), *((f"{here}.classes.{label}", own) for label, own in given.classes.items())):
        one = dataclasses.replace(given, **{key: value for key, value in own.items() if key in PER_CLASS})
        if not -1 <= one.threshold <= 1:
            found.add(RunError(f"{where}.threshold: {one.threshold} is outside -1 to 1.", fix="write a score, such as 0.6."))
        if one.release is not None and one.release > one.threshold:
            found.add(
                RunError(
                    f"{where}.release: {one.release} is above the threshold {one.threshold}.",
                    why="a class would go off at the score that switches it on.",
                    fix="write a smaller one, or leave it out.",
                )
            )
        if one.debounce < 1:
            found.add(RunError(f"{where}.debounce: {one.debounce} decisions.", fix="write at least 1."))
        if one.cool_down_s < 0:
            found.add(RunError(f"{where}.cool_down_s: {one.cool_down_s}.", fix="write seconds, 0 or more."))


def _parts(plain: Any, folder: str, where: str, found: Collector) -> tuple[Part, ...]:
    kind = folder.rpartition("/")[2]
    if plain is None:
        return ()
    if not isinstance(plain, list):
        found.add(RunError(f"{where}: '{kind}' is not a list.", fix=f"{kind}: [{plugins.names(folder)[0]}: {{...}}]"))
        return ()
    made = []
    for number, entry in enumerate(plain, 1):
        entry = {entry: {}} if isinstance(entry, str) else entry
        here = f"{where}: {kind} {number}"
        if not isinstance(entry, dict) or len(entry) != 1:
            found.add(
                RunError(f"{here} is not one of them with its options.", fix=f"write `- {plugins.names(folder)[0]}: {{option: value}}`.")
            )
            continue
        (name, given) = next(iter(entry.items()))
        given = given or {}
        if name not in plugins.names(folder):
            found.add(RunError(f"{here}: there is no {kind[:-1]} '{name}'.", fix=nearest(str(name), plugins.names(folder))))
        elif not isinstance(given, dict):
            found.add(RunError(f"{here} ({name}): its options are not a mapping.", fix=f"write `- {name}: {{option: value}}`."))
        else:
            for error in check(given, plugins.options(folder, name), f"{here} ({name})", RunError):
                found.add(error)
            for key, value in given.items():
                with found.catch():
                    if isinstance(value, str):
                        refuse_password(value, f"{here} ({name}).{key}")
            made.append(Part(name, given))
    return tuple(made)


def _check_sources(settings: Settings, card: Card, where: str, found: Collector) -> None:
    """Every source feeds inputs of the model, and no input is fed twice."""
    taken: dict[str, str] = {name: "a value" for name, given in settings.inputs.items() if given.value is not None}
    for part in settings.sources:
        for name in _names(part.options.get("inputs")):
            if name not in card.inputs:
                found.add(
                    RunError(f"{where}: the source '{part.kind}' feeds '{name}', no input of this model.", fix=nearest(name, card.inputs))
                )
            elif name in taken:
                found.add(RunError(f"{where}: '{name}' is fed twice, by {taken[name]} and by {part.kind}.", fix="keep one of them."))
            taken[name] = part.kind
    if not taken:
        found.add(RunError(f"{where}: nothing feeds this model.", fix=f"--source {','.join(card.inputs)}=PLACE, or sources: in run.yaml."))


def _names(inputs: Any) -> list[str]:
    return [inputs] if isinstance(inputs, str) else [str(name) for name in inputs or ()]


def _mapping(value: Any, where: str, found: Collector) -> Mapping[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    found.add(RunError(f"{where} is not a mapping.", fix="write `name: {option: value}`."))
    return {}


def of_words(words: Sequence[str]) -> list[dict[str, dict[str, Any]]]:
    """``["image,audio=rtsp://host/live"]`` as entries of ``sources``.

    Raises:
        RunError: Not of that form, or an address with a password.
    """
    entries = []
    for word in words:
        names, equals, place = word.partition("=")
        if not equals or not names or not place:
            raise RunError(f"--source '{word}' is not INPUTS=PLACE.", fix="write it as image,audio=rtsp://host/live.")
        refuse_password(place, f"--source {names}")
        entries.append(_entry([name.strip() for name in names.split(",")], place))
    return entries


def broker_of(place: str) -> dict[str, Any]:
    """``mqtt://host:port/...`` as options of the MQTT source or sink.

    Raises:
        RunError: Another scheme, or a password in it.
    """
    refuse_password(place, "--mqtt")
    scheme, _, rest = place.partition("://")
    name, _, port = rest.partition("/")[0].partition(":")
    if scheme not in ("mqtt", "mqtts") or not name or (port and not port.isdigit()):
        raise RunError(f"'{place}' is no broker.", fix="write it as mqtt://host:1883, or mqtts://host:8883 with TLS.")
    given: dict[str, Any] = {"host": name, "tls": scheme == "mqtts"} | ({"port": int(port)} if port else {})
    given |= {key: env for key, env in BROKER_ENV.items() if env in os.environ}
    return given


def page_of(place: str) -> dict[str, Any]:
    """``8099`` or ``0.0.0.0:8099`` as entries of ``web``; a token for other places than this machine stands in ``EDGEMM_WEB_TOKEN``.

    Raises:
        RunError: No port in it.
    """
    bind, _, port = place.rpartition(":")
    if not port.isdigit():
        raise RunError(f"--web '{place}' is no port.", fix="write it as 8099, or 0.0.0.0:8099.")
    given: dict[str, Any] = {"port": int(port)} | ({"bind": bind.strip("[]")} if bind else {})
    return given | ({"token_env": WEB_ENV} if WEB_ENV in os.environ else {})


def _entry(inputs: list[str], place: str) -> dict[str, dict[str, Any]]:
    if place == "microphone" or place.startswith("microphone:"):
        device = place.partition(":")[2]
        return {"microphone": {"inputs": inputs} | ({"device": device} if device else {})}
    if place.startswith(("mqtt://", "mqtts://")):
        return {"mqtt": {"inputs": inputs, "topic": place.partition("://")[2].partition("/")[2], **broker_of(place)}}
    if "://" not in place and Path(place).is_dir():
        return {"folder": {"inputs": inputs, "path": place}}
    return {"stream": {"inputs": inputs, "url": place}}
