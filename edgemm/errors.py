"""The errors a user sees: what happened, why, and how to fix it.

EdgemmError
├── CardError          the model card says something that cannot be
├── RecipeError        the recipe does
├── DataError          the dataset does: names file, row and column
├── CheckpointError    weights missing, truncated, unsafe, or not fitting the factory
├── ExportError        the exporter refused the model
├── ParityError        two rungs of the way disagree
├── PruneError         channels could not be removed, or the proof failed
├── QuantizeError      the graph could not be quantized
├── SpecMismatch       an array does not fit its TensorSpec
├── TargetError        a runtime refused the graph or failed
├── MeasureError       a candidate could not be measured
├── BundleError        a bundle is damaged, foreign or incomplete
├── OutputError        the output place cannot be written
├── TrainError         the training loop had to stop
├── RemoteError        another machine could not be reached, or lacks something
├── RunError           run.yaml, a source or a sink is wrong, or a source was lost
├── MissingExtra       a package that this command needs is not installed
└── Mistakes           several of the above, found in one go
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from edgemm.redaction import redact_addresses


class EdgemmError(Exception):
    """A mistake that a user can understand and mend. Passwords and tokens of addresses in its words are blotted out.

    Args:
        what: One sentence saying what is wrong, with the offending value quoted.
        why: The fact behind it. May be empty when ``what`` already says it.
        fix: What to do about it.
    """

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = redact_addresses(what), redact_addresses(why), redact_addresses(fix)
        super().__init__(self.block())

    def block(self) -> str:
        """The error as printed: one line what, then why and fix, each on lines of their own."""
        lines = [self.what]
        lines += [f"  why: {self.why}"] if self.why else []
        lines += [f"  fix: {self.fix}"] if self.fix else []
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.why, self.fix)


def _rebuild(kind: type[EdgemmError], what: str, why: str, fix: str) -> EdgemmError:
    return kind(what, why=why, fix=fix)


class CardError(EdgemmError):
    """The model card is wrong."""


class RecipeError(EdgemmError):
    """The recipe is wrong."""


class DataError(EdgemmError):
    """The dataset is wrong; the text names file, row and column."""


class CheckpointError(EdgemmError):
    """Weights are missing, truncated, unsafe to open, or do not fit the factory."""


class ExportError(EdgemmError):
    """The model could not be exported to ONNX."""


class ParityError(EdgemmError):
    """A rung of the parity ladder broke: two forms of one model disagree."""


class PruneError(EdgemmError):
    """Channels cannot be removed as asked, or the proof that nothing else changed failed."""


class MergeError(EdgemmError):
    """Tokens cannot be merged as asked."""


class QuantizeError(EdgemmError):
    """The graph could not be quantized."""


class SpecMismatch(EdgemmError):
    """An array does not fit the TensorSpec it was given for."""


class TargetError(EdgemmError):
    """A runtime is missing, refused the graph, or failed while running it."""


class MeasureError(EdgemmError):
    """A candidate could not be measured."""


class BundleError(EdgemmError):
    """A bundle is damaged, incomplete or not a bundle."""


class OutputError(EdgemmError):
    """The output place cannot be written."""


class TrainError(EdgemmError):
    """Training had to stop."""


class RunError(EdgemmError):
    """``run.yaml``, a source or a sink is wrong, or a source was lost."""


class RemoteError(EdgemmError):
    """Another machine could not be reached, or cannot do what it is asked."""


class MissingExtra(EdgemmError):
    """A package this command needs is not installed."""


class Mistakes(EdgemmError):
    """Several mistakes found in one go; prints one block for each."""

    def __init__(self, errors: Sequence[EdgemmError]) -> None:
        self.errors = tuple(errors)
        first = self.errors[0]
        super().__init__(first.what, why=first.why, fix=first.fix)

    def block(self) -> str:
        return "\n".join(error.block() for error in self.errors)

    def __reduce__(self) -> tuple[object, ...]:
        return Mistakes, (self.errors,)


class Collector:
    """Gathers mistakes so that all of them are reported at once.

    ``with collector.catch(): ...`` keeps an EdgemmError instead of letting it pass; ``raise_if_any`` ends the check.
    """

    def __init__(self) -> None:
        self.errors: list[EdgemmError] = []

    def add(self, error: EdgemmError) -> None:
        self.errors.extend(error.errors if isinstance(error, Mistakes) else [error])

    @contextmanager
    def catch(self) -> Iterator[None]:
        try:
            yield
        except EdgemmError as error:
            self.add(error)

    def raise_if_any(self) -> None:
        """Raise the single error found, or ``Mistakes`` holding all of them."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise Mistakes(self.errors)


@contextmanager
def naming(place: str) -> Iterator[None]:
    """What is raised inside, a CardError or the Mistakes of several, begins with the place of the card that it is about."""
    try:
        yield
    except CardError as err:
        raise CardError(f"{place}: {err.what}", why=err.why, fix=err.fix) from err
    except Mistakes as err:
        raise Mistakes([CardError(f"{place}: {error.what}", why=error.why, fix=error.fix) for error in err.errors]) from err


def nearest(word: str, known: Iterable[str]) -> str:
    """Words for a ``fix``: "did you mean 'x'? known: a, b, c"."""
    names = sorted(known)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    listing = f"known: {', '.join(names)}" if names else "none is known"
    return f"did you mean '{close[0]}'? {listing}" if close else listing
