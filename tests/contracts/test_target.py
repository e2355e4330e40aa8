"""What is told of a target without importing it."""

import pytest

from edgemm.contracts.target import needs_accelerator


@pytest.mark.parametrize(
    ("name", "options", "needs"),
    [("tensorrt", {}, True), ("openvino", {}, False), ("openvino", {"device": "CPU"}, False), ("openvino", {"device": "GPU"}, True)],
)
def test_whether_it_computes_on_more_than_the_processor(name, options, needs):
    assert needs_accelerator(name, options) == needs
