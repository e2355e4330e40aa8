import numpy as np
import pytest

from edgemm.box.measuring.layers import branch_precisions, latency_shares, steady_layers
from edgemm.contracts.target import LayerRan

OWNER = {"node_conv": "image", "relu": "image", "relu_1": "audio", "gru": "audio", "cat": "fusion", "event": "head:event"}


def layer(name, time_us=1.0, kind="Convolution", precision="f32"):
    return LayerRan(name, kind, precision, "", time_us)


def test_shares_follow_names_and_make_one_together():
    shares = latency_shares([layer("node_conv", 3.0), layer("gru", 6.0), layer("cat", 1.0)], OWNER)
    assert shares == {"image": 0.3, "audio": 0.6, "fusion": 0.1}


@pytest.mark.parametrize(
    ("name", "branch"),
    [
        ("relu_1_nchwc", "audio"), ("relu_nchwc", "image"), ("fused event", "head:event"), ("node_conv/WithoutBiases", "image"),
        ("node_conv_abcd_acdb_cat", "image"), ("Multiply_77,gru", "audio"),
    ],
)  # fmt: skip
def test_a_layer_the_runtime_renamed_is_known_by_how_its_name_begins(name, branch):
    assert latency_shares([layer(name)], OWNER) == {branch: 1.0}


def test_a_layer_without_a_known_name_belongs_to_the_one_before_it():
    shares = latency_shares([layer("Reorder_1", 1.0), layer("gru", 2.0), layer("GRUSequence_169", 5.0), layer("cat", 2.0)], OWNER)
    assert shares == {"audio": 0.8, "fusion": 0.2}


def test_a_fused_layer_is_shared_between_its_branches():
    assert latency_shares([layer("node_conv,relu,gru", 4.0)], OWNER) == {"image": 0.5, "audio": 0.5}


def test_without_times_there_are_no_shares():
    assert latency_shares([layer("gru", None)], OWNER) == {}
    assert latency_shares([], OWNER) == {}


def test_the_precision_of_a_branch_is_that_of_the_layers_that_multiply():
    layers = [
        layer("node_conv", precision="int8"),
        layer("relu", kind="Reorder", precision="f32"),
        layer("gru", kind="RNNSeq", precision="bf16"),
    ]
    assert branch_precisions([*layers, layer("relu_1", precision="int8")], OWNER) == {"image": "int8", "audio": "int8+bf16"}


def test_where_no_layer_of_a_branch_tells_that_it_multiplies_its_fused_ones_count():
    layers = [layer("relu,cat", kind="Subgraph", precision="bf16"), layer("node_conv", precision="int8"), layer("event", kind="Reorder")]
    assert branch_precisions(layers, OWNER) == {"image": "int8", "fusion": "bf16"}


class Averaging:
    """A session whose first run takes 1000 times as long, and which tells averages over all runs as OpenVINO does."""

    inputs = outputs = ()

    def __init__(self):
        self.times = []

    def run(self, feed):
        self.times.append(10.0 if self.times else 10_000.0)
        return {}

    def layers(self):
        return [layer("node_conv", round(float(np.mean(self.times)))), layer("event", None)]


def test_the_slow_first_run_is_taken_out_of_an_average():
    steady, untimed = steady_layers(Averaging(), {}, seconds=0.1)
    assert steady.time_us == pytest.approx(10, abs=0.7)
    assert untimed.time_us is None
