"""Heat and memory of a box: what is off or unreadable is left out, and only differences of counters are told."""

from pathlib import Path

import pytest

from edgemm.box.devices import advice, memory, thermals


def test_zones_that_are_off_are_left_out_and_the_lowest_critical_point_is_known(orin_nano):
    seen = thermals.look(orin_nano)
    assert seen.celsius == {"cpu-thermal": 47.875, "gpu-thermal": 50.218}
    assert (seen.hottest, seen.critical_celsius) == (50.218, 104.5)
    assert seen.throttling == ()
    assert seen.to_dict()["hottest_celsius"] == 50.218


def test_a_zone_that_cannot_be_read_is_no_error(orin_nano):
    place = orin_nano / "sys/class/thermal/thermal_zone0/temp"
    place.unlink()
    place.mkdir()  # reading it fails, as a gated block's does
    assert set(thermals.look(orin_nano).celsius) == {"gpu-thermal"}
    (orin_nano / "sys/class/thermal/thermal_zone1/temp").write_text("hot")
    assert thermals.look(orin_nano).hottest is None


def test_throttling_and_events_of_current_are_told_as_differences(orin_nano):
    before = thermals.look(orin_nano)
    (orin_nano / "sys/class/thermal/cooling_device1/cur_state").write_text("3")
    (orin_nano / "sys/class/hwmon/hwmon1/oc3_event_cnt").write_text("9")
    after = thermals.look(orin_nano)
    assert after.throttling == ("cpu-throttle-alert",)
    assert thermals.since(before, after) == {"peak over-current": 7}
    assert thermals.told(before, after) == [
        "While this was measured the board's current limit acted (7 of peak over-current).",
        "The board was throttled while this was measured (cpu-throttle-alert).",
    ]
    assert thermals.told(before, before) == []
    said = "\n".join(advice.on_heat(after))
    assert "the box is throttled right now (cpu-throttle-alert)" in said
    assert "since its start the board's current limit acted: 9 of peak over-current" in said


def test_heat_near_the_critical_point_is_told(orin_nano):
    (orin_nano / "sys/class/thermal/thermal_zone1/temp").write_text("98000")
    assert "98 degrees is near the critical 104: check the fan." in advice.on_heat(thermals.look(orin_nano))[-1]


def test_memory_is_the_shared_one_and_the_gpus_part_is_named_where_the_driver_tells(orin_nano):
    seen = memory.look(orin_nano)
    assert (seen.total, seen.available, seen.swap_used, seen.gpu) == (7620, 5120, 1, 500)
    assert advice.on_memory(seen) == []
    put = (orin_nano / "proc/meminfo").write_text
    put("MemTotal: 7802880 kB\nMemAvailable: 524288 kB\n")
    assert "only 512 MiB of memory are available: stop the desktop" in advice.on_memory(memory.look(orin_nano))[0]
    put("MemTotal: lots\n")
    assert memory.look(orin_nano) is None
    assert advice.on_memory(None) == []


def test_the_lowest_moment_of_a_run_is_kept(orin_nano):
    place: Path = orin_nano / "proc/meminfo"
    with memory.Lowest(orin_nano, every_s=0.001) as watch:
        place.write_text("MemTotal: 7802880 kB\nMemAvailable: 4194304 kB\n")
        while watch.lowest.available != 4096:
            pass
        place.write_text("MemTotal: 7802880 kB\nMemAvailable: 5242880 kB\n")
    assert watch.taken_mib == pytest.approx(1024)
    assert watch.to_dict()["lowest"]["available_mib"] == 4096


def test_a_box_without_meminfo_tells_nothing(tmp_path):
    with memory.Lowest(tmp_path) as watch:
        pass
    assert (watch.taken_mib, watch.to_dict()) == (None, {})
