"""Torch-Pruning, a training loop written by hand, NNCF, OpenVINO: what edgemm does in one command.

``default``: half of the channels by magnitude and plain fine-tuning, as in Torch-Pruning's introduction. ``best``: until half of the
multiply-accumulates are gone, in steps, widths in eights, recurrent layers left whole (they break it), taught by the original.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _given import Given

FORMS = TRAINS = ("default", "best")
EPOCHS = {"default": 6, "best": 12}
STEPS = 32
RATE, TEMPERATURE = 1e-3, 2.0


def compress(given: Given, out: Path, form: str) -> Path:
    import nncf
    import openvino as ov
    import torch
    from _torch_model import Model, samples

    model = Model(given.card)
    teacher = copy.deepcopy(model)
    rows = samples(given, model)
    prune(model, rows[0], best=form == "best")
    tune(given, model, teacher, EPOCHS[form], distil=form == "best")
    torch.onnx.export(
        model, rows[0], str(out / "pruned.onnx"), input_names=model.inputs, output_names=model.outputs, dynamo=True, external_data=False
    )
    quantized = nncf.quantize(ov.Core().read_model(out / "pruned.onnx"), nncf.Dataset(given.samples), subset_size=len(rows))
    ov.save_model(quantized, out / "model.xml", compress_to_fp16=False)
    return out / "model.xml"


def prune(model: Any, example: tuple[Any, ...], *, best: bool) -> None:
    import torch_pruning as tp
    from torch import nn

    heads = [module for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".heads." in f".{name}."]
    whole = [module for module in model.modules() if isinstance(module, (nn.GRU, nn.LSTM))] if best else []
    settings: dict[str, Any] = {"round_to": 8, "iterative_steps": STEPS, "pruning_ratio": 0.9} if best else {"pruning_ratio": 0.5}
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.BasePruner(model, example, importance=importance, ignored_layers=[*heads, *whole], **settings)
    before, _ = tp.utils.count_ops_and_params(model, example)
    for _ in range(STEPS if best else 1):
        pruner.step()
        left, _ = tp.utils.count_ops_and_params(model, example)
        if best and left <= before / 2:
            break


def tune(given: Given, model: Any, teacher: Any, epochs: int, *, distil: bool) -> None:
    import torch
    from _torch_model import Rows
    from torch.nn import functional

    torch.manual_seed(0)
    rows = Rows(given, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(rows))
    model.train()
    for _ in range(epochs):
        for inputs, labels in rows:
            answers = model(*inputs)
            loss = sum(functional.cross_entropy(answer, label) for answer, label in zip(answers, labels, strict=True))
            if distil:
                with torch.no_grad():
                    taught = teacher(*inputs)
                for answer, wanted in zip(answers, taught, strict=True):
                    soft = functional.kl_div(
                        (answer / TEMPERATURE).log_softmax(-1), (wanted / TEMPERATURE).softmax(-1), reduction="batchmean"
                    )
                    loss = loss + TEMPERATURE**2 * soft
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()
