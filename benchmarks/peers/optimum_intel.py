"""optimum-intel, made for models of the Hugging Face library.

``default``: as `optimum-cli export openvino` does it. ``best``: the model itself handed to its quantizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _given import Given

FORMS = ("default", "best")


def compress(given: Given, out: Path, form: str) -> Path:
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig, OVQuantizationConfig, OVQuantizer

    if form == "default":
        main_export(str(Path(given.card).parent), out, task="feature-extraction", library_name="transformers")
        return out / "openvino_model.xml"
    from edgemm.contracts import card_file
    from edgemm.workshop.models.checkpoint.loading import load_model

    quantizer = OVQuantizer.from_pretrained(load_model(card_file.load(given.card)), task="feature-extraction")
    config = OVConfig(quantization_config=OVQuantizationConfig(bits=8, num_samples=len(given.samples)))
    quantizer.quantize(calibration_dataset=given.samples, save_directory=out, ov_config=config)
    return out / "openvino_model.xml"
