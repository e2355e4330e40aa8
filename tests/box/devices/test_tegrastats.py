"""Lines of tegrastats from L4T 32 to 39: each is read whole, and nothing that a line may turn into breaks the reader."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemm.box.devices.tegrastats import Core, Rail, parse
from edgemm.errors import MeasureError

LINES = Path(__file__).with_name("tegrastats.txt").read_text().splitlines()
AGX_35, NANO_36, AGX_36, THOR_38, THOR_39, NANO_32, XAVIER_32 = LINES


@pytest.mark.parametrize(
    ("line", "power_mw", "hottest", "gpu_mhz"),
    [
        (AGX_35, 2390 + 796 + 3522 + 301, 41.656, (0,)),
        (NANO_36, 4654, 50.218, ()),
        (AGX_36, 2412 + 1607 + 4707, 52.562, (0, 0)),
        (THOR_38, 0 + 4165 + 4126, 34.5, (0, 0, 0)),
        (THOR_39, 4925 + 7953 + 6667, 35.906, (314, 314, 314)),
        (NANO_32, 2345, 41.5, ()),
        (XAVIER_32, 1155 + 385 + 2502 + 0 + 192 + 1480, 38.5, ()),
    ],
    ids=["agx-35", "nano-36", "agx-36", "thor-38", "thor-39", "nano-32", "xavier-32"],
)
def test_every_line_shows_the_boards_power_its_hottest_sensor_and_the_clocks_of_its_gpu(line, power_mw, hottest, gpu_mhz):
    found = parse(line)
    assert found.power_mw == power_mw
    assert found.hottest_celsius == hottest
    assert found.gpu_mhz == gpu_mhz
    assert found.ram_used_mib < found.ram_total_mib


def test_a_line_is_read_whole():
    found = parse(AGX_35)
    assert found.date == "01-03-2023 16:07:54"
    assert (found.ram_used_mib, found.ram_total_mib, found.swap_used_mib, found.swap_total_mib) == (2257, 30536, 0, 15268)
    assert found.cores == (Core(1, 729), None)
    assert (found.memory_load_percent, found.memory_mhz, found.gpu_load_percent) == (0, 204, 0)
    assert found.celsius == {"CPU": 41.437, "Tboard": 29.0, "SOC2": 39.062, "tj": 41.656}
    assert "NC" not in found.rails
    assert parse(THOR_39).rails["VDD_CPU_SOC_MSS"] == Rail(7953, 8332, 8710)


def test_without_root_there_are_no_clocks_and_on_thor_no_gpu_load():
    assert (parse(NANO_36).memory_mhz, parse(NANO_36).gpu_load_percent) == (None, 0)
    assert parse(THOR_38).gpu_load_percent is None


def test_the_carriers_supply_is_not_added_to_its_modules_rails():
    assert parse(f"{THOR_38} VIN 20000mW/20000mW").power_mw == parse(THOR_38).power_mw


@pytest.mark.parametrize("line", ["", "tegrastats: command not found", "RAM 14", "CPU [1%@729]", "IRAM 0/252kB"])
def test_what_is_no_line_is_refused_with_its_text(line):
    with pytest.raises(MeasureError, match=r"is not a line of tegrastats\.\n  why: it says nothing of the memory"):
        parse(line)


def test_more_memory_in_use_than_there_is_is_refused():
    with pytest.raises(MeasureError, match="9999 of 7620 MB of memory cannot be in use"):
        parse(NANO_36.replace("1488/7620", "9999/7620"))


def test_a_number_that_was_cut_off_is_no_rail():
    cut = parse(AGX_36[: AGX_36.index("07mW/4707mW")])  # ... VIN_SYS_5V0 47
    assert "VIN_SYS_5V0" not in cut.rails
    assert cut.rails["VDD_CPU_CV"].now_mw == 1607


@given(
    line=st.sampled_from(LINES),
    edits=st.lists(st.tuples(st.sampled_from(["cut", "drop", "insert", "repeat"]), st.integers(0, 600), st.text(max_size=4)), max_size=6),
)
def test_no_mutation_of_a_line_breaks_the_reader_or_shows_what_cannot_be(line, edits):
    whole = parse(line)
    for kind, place, words in edits:
        place = min(place, len(line))
        tail = {"cut": "", "drop": line[place + 1 :], "insert": words + line[place:], "repeat": line[max(0, place - 9) :]}[kind]
        line = line[:place] + tail
    try:
        found = parse(line)
    except MeasureError as err:
        assert "is not a line of tegrastats" in err.what  # noqa: PT017  most mutations are read, so there is nothing to expect
        return
    assert 0 <= found.ram_used_mib <= found.ram_total_mib
    assert all(-55 <= value <= 150 for value in found.celsius.values())
    assert all(rail.now_mw >= 0 for rail in found.rails.values())
    assert len(found.cores) <= line.count(",") + 1
    if not edits:
        assert found == whole


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(words):
    try:
        assert parse(words).ram_total_mib > 0
    except MeasureError as err:
        assert err.fix  # noqa: PT017
