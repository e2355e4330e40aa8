"""torchao's PT2E quantization for x86, run by torch's own compiler (ahead of time, so that a process starts in seconds).

``best``: with the compiler's `freezing`, which its documentation asks for on x86: without it the INT8 patterns are not put together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _given import Given

FORMS = ("default", "best")


def compress(given: Given, out: Path, form: str) -> str:
    import torch
    from _torch_model import Model, samples
    from torch._inductor import aoti_compile_and_package
    from torch._inductor import config as inductor
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    model = Model(given.card)
    rows = samples(given, model)
    with torch.no_grad(), inductor.patch(freezing=form == "best"):
        quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(torch.export.export(model, rows[0]).module(), quantizer)
        for row in rows:
            prepared(*row)
        converted = convert_pt2e(prepared)
        aoti_compile_and_package(torch.export.export(converted, rows[0]), package_path=str(out / "model.pt2"))
    names = f"{','.join(model.inputs)} {','.join(model.outputs)}"
    return f"command:{sys.executable} {Path(__file__).with_name('_torch_program.py')} {out / 'model.pt2'} {names}"
