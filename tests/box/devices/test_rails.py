"""A board's rails and what they add up to; energy from samples of the power; tegrastats as the last resort."""

import time

import pytest

from edgemm.box.devices.power import BoardMeter, Tegrastats, integrate, open_meter
from edgemm.box.devices.rails import find_rails, total_mw, whole


def test_rails_are_found_by_their_monitors_name_and_unconnected_ones_are_left_out(orin_nano):
    rails = find_rails(orin_nano / "sys/class/hwmon")
    assert [(rail.label, rail.read_mw()) for rail in rails] == [("VDD_IN", 4655.0), ("VDD_CPU_GPU_CV", 560.0)]


def test_a_monitor_of_one_rail_shows_its_power(tmp_path):
    folder = tmp_path / "hwmon4"
    folder.mkdir()
    for name, value in {"name": "ina238", "label": "VDD_GPU", "power1_input": "4925000"}.items():
        (folder / name).write_text(value)
    (rail,) = find_rails(tmp_path)
    assert (rail.label, rail.read_mw()) == ("VDD_GPU", 4925.0)
    (folder / "power1_input").write_text("nan")
    assert find_rails(tmp_path) == []


def test_the_rail_that_feeds_all_others_is_the_whole_else_all_but_the_carriers():
    assert whole(["VDD_SOC", "VDD_IN", "NC"]) == ["VDD_IN"]
    assert whole(["VDD_GPU", "VIN_SYS_5V0", "VIN", "NC"]) == ["VDD_GPU", "VIN_SYS_5V0"]
    assert total_mw({"VDD_GPU": 1.0, "VIN": 9.0}) == 1.0
    assert total_mw({}) is None


def test_energy_is_the_area_below_the_power_and_its_ends_are_held():
    assert integrate([0, 1, 2], [1000, 3000, 1000], 0, 2) == pytest.approx(4000)
    assert integrate([0, 1, 2], [1000, 3000, 1000], 0.5, 1.5) == pytest.approx(2500)
    assert integrate([0, 1], [1000, 3000], 5, 7) == pytest.approx(6000)
    assert integrate([3], [2000], 0, 1) == pytest.approx(2000)
    assert integrate([], [], 0, 1) is None


def test_a_board_counts_what_it_uses_and_passes_over_what_it_cannot_read(orin_nano):
    meter, covers = open_meter(orin_nano / "none", orin_nano / "sys/class/hwmon")
    assert isinstance(meter, BoardMeter)
    assert covers.endswith("idle power included: VDD_IN")
    meter.start()
    began = time.perf_counter()
    time.sleep(0.12)
    (orin_nano / "sys/class/hwmon/hwmon2/curr1_input").write_text("garbled")  # such a reading is left out
    time.sleep(0.06)
    used, seconds = meter.stop_mj(), time.perf_counter() - began
    assert used == pytest.approx(4655.0 * seconds, rel=0.05)


def test_tegrastats_is_listened_to_where_no_rail_can_be_read_and_broken_lines_are_passed_over(tmp_path, replayed):
    meter, covers = open_meter(tmp_path, tmp_path, replayed)
    assert isinstance(meter, Tegrastats)
    assert "as tegrastats prints it" in covers
    meter.start()
    began = time.perf_counter()
    time.sleep(0.1)
    used, seconds = meter.stop_mj(), time.perf_counter() - began
    meter.close()
    assert used == pytest.approx(4654 * seconds, rel=0.05)


def test_a_tegrastats_without_power_leaves_the_energy_unknown(tmp_path):
    script = tmp_path / "tegrastats"
    script.write_text("#!/bin/sh\necho RAM 1/2MB\n")
    script.chmod(0o755)
    assert open_meter(tmp_path, tmp_path, str(script)) == (
        None,
        "energy is unknown: tegrastats is here but prints no power; run it by hand to see why.",
    )
