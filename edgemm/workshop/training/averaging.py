"""Averaged weights: a running mean of what the optimizer walks through, which is judged and kept in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import swa_utils

from edgemm.contracts.training import Choice
from edgemm.errors import TrainError


class Average:
    """The running mean of a module's weights and buffers, such as a batch norm's statistics.

    ``ema``: after every step, by ``decay``, which grows from 0 with the steps so that the fresh weights are soon forgotten. ``swa``: after
    every epoch of a stage from share ``start`` of it on; all count alike.

    Raises:
        TrainError: The module cannot be copied.
    """

    def __init__(self, module: nn.Module, how: Choice) -> None:
        self._module, self._how = module, how
        try:
            self._mean = swa_utils.AveragedModel(module, multi_avg_fn=self._rule(), use_buffers=True)
        except Exception as err:  # whatever a user's module raises where it is copied
            why = f"its copy failed: {type(err).__name__}: {err}".rstrip(".") + "."
            raise TrainError("the weights of this model cannot be averaged.", why=why, fix="leave average out.") from err

    @property
    def has_begun(self) -> bool:
        """Whether there is a mean yet."""
        return bool(self._mean.n_averaged > 0)

    def after_step(self) -> None:
        """The optimizer made a step."""
        if self._how.name == "ema":
            self._mean.update_parameters(self._module)

    def after_epoch(self, done: float) -> None:
        """An epoch ended, with which share ``done`` of the stage's epochs have been trained."""
        if self._how.name == "swa" and done > self._how.numbers["start"]:
            self._mean.update_parameters(self._module)

    def restart(self) -> None:
        """The weights were set to others: the mean begins anew."""
        self._mean.n_averaged.zero_()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The module holds the mean meanwhile, if there is one."""
        if not self.has_begun:
            yield
            return
        own = {name: value.detach().clone() for name, value in self._module.state_dict().items()}
        self._module.load_state_dict(self._mean.module.state_dict())
        try:
            yield
        finally:
            self._module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._mean.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean.load_state_dict(state)

    def _rule(self) -> Callable[..., None]:
        """How tensors of one kind are averaged; whole numbers, such as a count of batches, are taken as they are now."""
        decay = self._how.numbers["decay"] if self._how.name == "ema" else None

        @torch.no_grad()
        def mean(averaged: list[torch.Tensor], current: list[torch.Tensor], count: Any) -> None:
            seen = float(count)
            share = 1 / (seen + 1) if decay is None else 1 - min(decay, (1 + seen) / (10 + seen))
            for old, new in zip(averaged, current, strict=True):
                if torch.is_floating_point(old):
                    old.lerp_(new.to(old.dtype), share)
                else:
                    old.copy_(new)

        return mean
