"""Members of a late fusion: opened, whatever they come as, and put under one card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.seal import MANIFEST
from edgemm.contracts import card_file as cards
from edgemm.contracts import task as tasks
from edgemm.contracts import user_code
from edgemm.contracts.card import Card, Input, Output
from edgemm.contracts.joint import MOST_MEMBERS, RULES, WEIGHTED, Joint, JointHead
from edgemm.errors import CardError, Collector, nearest
from edgemm.pipeline.late_fusion import labels as joint_labels
from edgemm.workshop.models.checkpoint import huggingface_card

SPECIAL = ("state", "value")  # options of inputs that nobody sends


@dataclass(frozen=True)
class Asked:
    """A head as it was asked for.

    Attributes:
        heard: Member -> its output.
        rule: The rule asked for; "" = what wins on val.
        weights: Of ``weighted``, a number a member.
    """

    heard: Mapping[str, str]
    rule: str = ""
    weights: tuple[float, ...] = ()


@dataclass
class Composed:
    """Members under one card.

    Attributes:
        card: Inputs, outputs and ``joint``, its rules still to be found.
        members: Each as it is heard: of a detector the best score of each label.
        inputs: Member -> its own input -> the fused card's.
        originals: Each as it was given.
        notes: What the user should know.
    """

    card: Card
    members: Mapping[str, Card]
    inputs: Mapping[str, Mapping[str, str]]
    asked: Mapping[str, Asked]
    originals: Mapping[str, Card]
    notes: list[str] = field(default_factory=list)

    @property
    def is_torch(self) -> bool:
        """Whether every member is a torch model that a card can build again, so that the whole can be trained and pruned."""
        return all(card.factory and user_code.kind(card) in ("own", "shipped") for card in self.members.values()) and not any(
            map(self.is_detector, self.members)
        )

    def is_detector(self, member: str) -> bool:
        """Whether a member answers with boxes, of which the best score of each label is heard."""
        return self.members[member].outputs != self.originals[member].outputs


def open_members(given: Sequence[str], note: Callable[[str], None]) -> dict[str, Card]:
    """Member -> its card; of a bundle that of its float graph, of a Hugging Face folder one drafted from its configuration.

    Args:
        given: ``name=place`` each.

    Raises:
        EdgemmError: A name twice or one that cannot be, or a place where no model is. Mistakes: several.
    """
    members: dict[str, Card] = {}
    mistakes = Collector()
    for entry in given:
        name, equals, place = entry.partition("=")
        with mistakes.catch():
            if not equals or not name.isidentifier() or not place:
                raise CardError(
                    f"'{entry}' is not of the form NAME=MODEL.", why="a name is letters, digits and _.", fix="write e.g. yard=yard.onnx"
                )
            if name in members:
                raise CardError(f"two members are called '{name}'.", fix="give each a name of its own.")
            members[name] = _open(place, note)
    mistakes.raise_if_any()
    if len(members) < 2:
        raise CardError("a fusion needs two members or more.", fix="write e.g. edgemm fuse yard=yard.onnx sound=runs/sound/model.yaml ...")
    return members


def _open(place: str, note: Callable[[str], None]) -> Card:
    path = Path(place)
    if path.suffix == ".onnx":
        from edgemm.graph import onnx_card

        card = cards.beside(path) or onnx_card.draft(path, note)
    elif path.suffix == ".edgemm" or (path / MANIFEST).is_file():
        bundle = open_bundle(path)
        card = bundle.card.replace(model=str(bundle.model.resolve()))
    elif path.is_dir() and huggingface_card.is_folder(path):
        drafted = huggingface_card.read(path, str(path.resolve()))
        card = drafted.replace(path=(path / "model.yaml").resolve())
    else:
        card = cards.load(place)
    if card.joint is not None:
        raise CardError(f"'{place}' is a fusion itself.", fix="fuse its members with the others in one go.")
    return card


def parse_heads(given: Sequence[str], rules: Sequence[str], members: Mapping[str, Card]) -> dict[str, Asked]:
    """Heads from ``event: yard.class, sound.event``, rules from ``event: max`` or ``event: 0.7, 0.3``.

    Raises:
        CardError: One of them names what is not there, or cannot be joined. Mistakes: several.
    """
    mistakes, members = Collector(), {name: as_heard(card) for name, card in members.items()}
    heads: dict[str, Asked] = {}
    for entry in given:
        with mistakes.catch():
            name, colon, rest = entry.partition(":")
            heard = dict(_heard(entry, word.strip(), members) for word in rest.split(",")) if colon and name.strip() else {}
            if not heard:
                raise CardError(
                    f"--head '{entry}' is not of the form HEAD: MEMBER.OUTPUT, ...",
                    fix="write e.g. --head 'event: yard.class, sound.event'",
                )
            _check_head(name.strip(), entry, heard, members)
            heads[name.strip()] = Asked(heard)
    for entry in rules:
        with mistakes.catch():
            name, _, rest = (part.strip() for part in entry.partition(":"))
            if name not in heads:
                raise CardError(f"--rule '{entry}' is about no head.", fix=nearest(name, heads))
            heads[name] = _ruled(entry, rest, heads[name], members)
    mistakes.raise_if_any()
    unheard = [name for name in members if not any(name in asked.heard for asked in heads.values())]
    if unheard:
        raise CardError(f"no head hears member '{unheard[0]}'.", fix=f"name one of its outputs in --head, or leave out {unheard[0]}=...")
    return heads


def as_heard(card: Card) -> Card:
    """A member's card with labels in the place of boxes."""
    return card.replace(outputs={name: _without_boxes(output) for name, output in card.outputs.items()})


def _without_boxes(output: Output) -> Output:
    if not tasks.of(output).has_boxes:
        return output
    return Output(output.name, "multilabel", {"labels": output.labels} if output.labels else {})


def _heard(entry: str, word: str, members: Mapping[str, Card]) -> tuple[str, str]:
    member, _, output = word.partition(".")
    if member not in members:
        raise CardError(f"--head '{entry}': there is no member '{member}'.", fix=nearest(member, members))
    outputs = members[member].outputs
    output = output or (next(iter(outputs)) if len(outputs) == 1 else "")
    if output not in outputs:
        raise CardError(f"--head '{entry}': '{member}' has no output '{output}'.", fix=nearest(output, outputs))
    return member, output


def _check_head(name: str, entry: str, heard: Mapping[str, str], members: Mapping[str, Card]) -> None:
    specs = {f"{member}.{output}": members[member].outputs[output] for member, output in heard.items()}
    for word, spec in specs.items():
        if spec.task not in RULES or spec.per_step:
            is_opaque = spec.task == "tensor"
            raise CardError(
                f"head '{name}': '{word}' cannot be joined.",
                why="nobody says what its numbers mean." if is_opaque else f"its task is {spec.task}{', once a step' * spec.per_step}.",
                fix=f"draft a card beside the file (edgemm init FILE -o model.yaml) and give the output a task of: {', '.join(RULES)}."
                if is_opaque
                else f"fuse outputs of: {', '.join(RULES)}.",
            )
    if len({spec.task for spec in specs.values()}) > 1:
        listed = ", ".join(f"{word} is a {spec.task}" for word, spec in specs.items())
        raise CardError(f"head '{name}' would join different tasks.", why=f"{listed}.", fix="join outputs of one task.")
    if len({spec.unit for spec in specs.values()}) > 1:
        listed = ", ".join(f"{word} counts {spec.unit or 'nobody says what'}" for word, spec in specs.items())
        raise CardError(
            f"head '{name}' would join different units.", why=f"{listed}.", fix="name the unit in the cards, or fuse what counts the same."
        )
    if len(heard) > MOST_MEMBERS:
        why = f"each of {2 ** len(heard) - 1} subsets would have a joint of its own."
        raise CardError(f"head '{name}' hears {len(heard)} members; {MOST_MEMBERS} at most.", why=why, fix="leave some out.")


def _ruled(entry: str, rest: str, asked: Asked, members: Mapping[str, Card]) -> Asked:
    member, output = next(iter(asked.heard.items()))
    known = RULES[members[member].outputs[output].task]
    if rest in known and rest != WEIGHTED:
        return replace(asked, rule=rest)
    try:
        weights = tuple(float(word) for word in rest.split(","))
    except ValueError:
        raise CardError(
            f"--rule '{entry}': '{rest}' is no rule.",
            fix=f"{nearest(rest, [one for one in known if one != WEIGHTED])}, or a weight a member: 0.7, 0.3",
        ) from None
    if len(weights) != len(asked.heard) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise CardError(
            f"--rule '{entry}' are no weights of {len(asked.heard)} members.", fix="write a number from 0 for each, in the head's order."
        )
    return replace(asked, rule=WEIGHTED, weights=weights)


def compose(members: Mapping[str, Card], asked: Mapping[str, Asked], table: Mapping[str, Sequence[str]], path: Path) -> Composed:
    """Members under one card at ``path``.

    An input that two members name alike and read alike is one; where they read it otherwise both are kept, from the same column.

    Raises:
        CardError: Labels that cannot be joined, or names that clash.
    """
    notes: list[str] = []
    originals, members = members, {name: as_heard(card) for name, card in members.items()}
    inputs: dict[str, Input] = {}
    taken: dict[str, dict[str, str]] = {}
    columns: dict[str, list[str]] = {}
    outputs: dict[str, Output] = {}
    for name, card in members.items():
        taken[name] = {}
        states = {
            str(spec.options["state"]): f"{name}_{spec.options['state']}" for spec in card.inputs.values() if spec.options.get("state")
        }
        for spec in card.inputs.values():
            moved = _moved(spec, card, states)
            fused = _name(name, moved, inputs, notes)
            inputs.setdefault(fused, replace(moved, name=fused))
            taken[name][spec.name] = fused
            columns.setdefault(card.column(spec.name), []).append(fused)
        outputs |= {fused: Output(fused, "tensor") for fused in states.values()}
    heads: dict[str, JointHead] = {}
    for head, one in asked.items():
        outputs[head], heads[head] = _head(head, one, members, table)
    named: dict[str, Any] = {}
    for column, fed in columns.items():
        fed = list(dict.fromkeys(fed))
        if fed != [column]:
            named[column] = fed[0] if len(fed) == 1 else fed
    sent = {
        name: [spec.name for spec in card.inputs.values() if not any(key in spec.options for key in SPECIAL)]
        for name, card in members.items()
    }
    joint = Joint({name: tuple(dict.fromkeys(taken[name][own] for own in sent[name])) for name in members}, heads)
    card = Card(inputs=inputs, outputs=outputs, path=path.resolve(), model="fused.onnx", columns=named, joint=joint)
    cards.parse({**card.to_dict(), "joint": None})  # raises where names clash
    return Composed(card, members, taken, asked, originals, notes)


def _moved(spec: Input, card: Card, states: Mapping[str, str]) -> Input:
    """An input as it stands in another folder and under another card's outputs."""
    options = dict(spec.options)
    if options.get("tokenizer"):
        options["tokenizer"] = str((card.folder / str(options["tokenizer"])).resolve())
    if options.get("state"):
        options["state"] = states[str(options["state"])]
    return replace(spec, options=options)


def _name(member: str, spec: Input, inputs: Mapping[str, Input], notes: list[str]) -> str:
    other = inputs.get(spec.name)
    if other is None or (replace(spec, name=other.name) == other and not any(spec.options.get(key) for key in SPECIAL)):
        return spec.name
    own = f"{member}_{spec.name}"
    if not any(key in spec.options for key in SPECIAL):
        notes.append(
            f"'{member}' reads '{spec.name}' otherwise than the members before it: it is kept as '{own}', fed from the same column."
        )
    return own


def _head(name: str, asked: Asked, members: Mapping[str, Card], table: Mapping[str, Sequence[str]]) -> tuple[Output, JointHead]:
    specs = {member: members[member].outputs[output] for member, output in asked.heard.items()}
    first = next(iter(specs.values()))
    if first.task not in ("classification", "multilabel"):
        options = {key: value for key, value in first.options.items() if key != "pair"}
        return Output(name, first.task, options), JointHead(dict(asked.heard))
    unlabelled = [member for member, spec in specs.items() if not spec.labels]
    if unlabelled:
        raise CardError(
            f"head '{name}': the card of '{unlabelled[0]}' names no labels.",
            fix="write labels: [...] there, in the order of the model's logits.",
        )
    labels = joint_labels.join(name, {member: spec.labels or () for member, spec in specs.items()}, table)
    return Output(name, first.task, {**first.options, "labels": labels.names}), JointHead(dict(asked.heard), groups=labels.groups)
