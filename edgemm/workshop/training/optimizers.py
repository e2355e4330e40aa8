"""The optimizer of a training, and which parameters it gives weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgemm.contracts.training import Choice


def make(choice: Choice, model: nn.Module, own: nn.Module, *, rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer for what of ``model`` and of the loss's ``own`` weights is trained.

    Biases and norms have no weight decay. With ``adamw`` that is taken off the weights themselves, with others it joins the gradient.
    """
    groups, numbers = _groups(model, own, weight_decay), choice.numbers
    match choice.name:
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=numbers["momentum"])
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=rate, lr_decay=numbers["lr_decay"])
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, alpha=numbers["alpha"], momentum=numbers["momentum"])
    kind = torch.optim.Adam if choice.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, betas=(numbers["beta1"], numbers["beta2"]))


def _groups(model: nn.Module, own: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters of the model and the loss with weight decay, and those without: biases and norms."""
    trained = [parameter for parameter in (*model.parameters(), *own.parameters()) if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.dim() > 1]
    flat = [parameter for parameter in trained if parameter.dim() <= 1]
    return [{"params": params, "weight_decay": decay} for params, decay in ((decayed, weight_decay), (flat, 0.0)) if params]
