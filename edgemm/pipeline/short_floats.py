"""Whether a model bears a shorter float type than the safe one where layers in float make its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemm.contracts.report import ROUNDING
from edgemm.contracts.task import scored_outputs
from edgemm.pipeline import answers
from edgemm.pipeline.part_quantized import Partial

SHORT = ("bf16", "f16")
LITTLE = 0.5  # points that it may cost at most, by the paired interval


def unproved(partial: Partial, options: Mapping[str, Any]) -> str:
    """Why these runtime options are not taken; "" where nothing speaks against them.

    Of a set of rows the layers behind their choice are float, and compute boxes: with the 8 bits of bf16 a coordinate of 640 comes in steps
    of 4. So rows of val have to show that it costs little; that no loss is shown is not enough. Of other models what decodes has no layers,
    and runtimes keep it in f32 by themselves.
    """
    from edgemm.graph import files
    from edgemm.graph.float_tail import layers_in_tail

    if options.get("precision") not in SHORT or not layers_in_tail(files.frame(partial.floats.main)):
        return ""
    is_proved = False
    if partial.split and scored_outputs(partial.job.card):
        losses = answers.lost(partial.job, partial.answers(), partial.answers(options=options)).values()
        is_proved = bool(losses) and all(m.high is not None and m.high <= LITTLE * (m.per_point or 1.0) + ROUNDING for m in losses)
    return "" if is_proved else f"no rows show that the layers behind the choice of rows bear {options.get('precision')}."
