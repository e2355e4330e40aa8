"""Power sensors: counters are read and unrolled, boards' rails are summed, and what cannot be read is said to be unknown."""

import pytest

from edgemm.box.devices.power import BoardMeter, Rapl, open_meter


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def test_rapl_counts_every_package_and_survives_a_counter_that_begins_anew(tmp_path):
    first = put(tmp_path / "intel-rapl:0", energy_uj=1_000_000, max_energy_range_uj=5_000_000)
    second = put(tmp_path / "intel-rapl:1", energy_uj=4_999_000, max_energy_range_uj=5_000_000)
    put(tmp_path / "intel-rapl:0:0", energy_uj=7)  # a part of the first package: counted there
    meter, covers = open_meter(powercap=tmp_path, hwmon=tmp_path / "none")
    assert isinstance(meter, Rapl)
    assert "idle power included" in covers
    meter.start()
    put(first, energy_uj=1_500_000)
    put(second, energy_uj=1_000)
    assert meter.stop_mj() == pytest.approx(500.0 + 2.0)


def test_a_jetsons_whole_board_is_counted_where_a_rail_is_labelled_so(tmp_path):
    rails = {"in1_input": 5000, "curr1_input": 2000, "in1_label": "VDD_IN", "in2_input": 5000, "curr2_input": 1000, "in2_label": "VDD_CPU"}
    put(tmp_path / "hwmon0", name="ina3221", **rails)
    meter, covers = open_meter(powercap=tmp_path / "none", hwmon=tmp_path)
    assert isinstance(meter, BoardMeter)
    assert "VDD_IN" in covers
    assert meter.power_mw() == pytest.approx(10_000.0)


def test_counters_that_only_root_may_read_are_named(tmp_path):
    put(tmp_path / "intel-rapl:0", energy_uj="")
    assert open_meter(powercap=tmp_path, hwmon=tmp_path) == (
        None,
        "energy is unknown: the RAPL counters may only be read by root here (chmod a+r /sys/class/powercap/*/energy_uj).",
    )


def test_a_box_without_sensors_says_so(tmp_path):
    assert open_meter(powercap=tmp_path, hwmon=tmp_path) == (
        None,
        "energy is unknown: this box shows no power sensor (RAPL, INA3221, INA238 or tegrastats).",
    )
