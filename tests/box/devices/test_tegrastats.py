"""Lines of tegrastats from L4T 32 to 39: each is read whole, and nothing that a line may turn into breaks the reader."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemm.box.devices.rails import total_mw
from edgemm.box.devices.tegrastats import rails_mw
from edgemm.errors import MeasureError

LINES = Path(__file__).with_name("tegrastats.txt").read_text().splitlines()
AGX_35, NANO_36, AGX_36, THOR_38, THOR_39, NANO_32, XAVIER_32 = LINES


@pytest.mark.parametrize(
    ("line", "power_mw"),
    [
        (AGX_35, 2390 + 796 + 3522 + 301),
        (NANO_36, 4654),
        (AGX_36, 2412 + 1607 + 4707),
        (THOR_38, 0 + 4165 + 4126),
        (THOR_39, 4925 + 7953 + 6667),
        (NANO_32, 2345),
        (XAVIER_32, 1155 + 385 + 2502 + 0 + 192 + 1480),
    ],
    ids=["agx-35", "nano-36", "agx-36", "thor-38", "thor-39", "nano-32", "xavier-32"],
)
def test_every_line_shows_the_boards_power(line, power_mw):
    assert total_mw(rails_mw(line)) == power_mw


def test_a_rail_that_is_not_connected_is_left_out():
    assert "NC" in AGX_35
    assert "NC" not in rails_mw(AGX_35)


def test_the_carriers_supply_is_not_added_to_its_modules_rails():
    assert total_mw(rails_mw(f"{THOR_38} VIN 20000mW/20000mW")) == total_mw(rails_mw(THOR_38))


@pytest.mark.parametrize("line", ["", "tegrastats: command not found", "RAM 14", "CPU [1%@729]", "IRAM 0/252kB"])
def test_what_is_no_line_is_refused_with_its_text(line):
    with pytest.raises(MeasureError, match=r"is not a line of tegrastats\.\n  why: it says nothing of the memory"):
        rails_mw(line)


def test_more_memory_in_use_than_there_is_is_refused():
    with pytest.raises(MeasureError, match="9999 of 7620 MB of memory cannot be in use"):
        rails_mw(NANO_36.replace("1488/7620", "9999/7620"))


def test_a_number_that_was_cut_off_is_no_rail():
    cut = rails_mw(AGX_36[: AGX_36.index("07mW/4707mW")])  # ... VIN_SYS_5V0 47
    assert "VIN_SYS_5V0" not in cut
    assert cut["VDD_CPU_CV"] == 1607


@given(
    line=st.sampled_from(LINES),
    edits=st.lists(st.tuples(st.sampled_from(["cut", "drop", "insert", "repeat"]), st.integers(0, 600), st.text(max_size=4)), max_size=6),
)
def test_no_mutation_of_a_line_breaks_the_reader_or_shows_what_cannot_be(line, edits):
    whole = rails_mw(line)
    for kind, place, words in edits:
        place = min(place, len(line))
        tail = {"cut": "", "drop": line[place + 1 :], "insert": words + line[place:], "repeat": line[max(0, place - 9) :]}[kind]
        line = line[:place] + tail
    try:
        found = rails_mw(line)
    except MeasureError as err:
        assert "is not a line of tegrastats" in err.what  # noqa: PT017  most mutations are read, so there is nothing to expect
        return
    assert all(power_mw >= 0 for power_mw in found.values())
    if not edits:
        assert found == whole


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(words):
    try:
        assert all(power_mw >= 0 for power_mw in rails_mw(words).values())
    except MeasureError as err:
        assert err.fix  # noqa: PT017
