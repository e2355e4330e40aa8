"""A Jetson tells what it is: from real files' and commands' words, and from as little of them as there may be."""

import pytest

from edgemm.box.devices import advice
from edgemm.box.devices.jetson import MODULES, Clocks, ask, identify, jetpack

CLOCKS = """SOC family:tegra234  Machine:NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super
cpu0:  Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1728000 CurrentFreq=1267200 IdleStates: WFI=1 c7=1
GPU MinFreq=306000000 MaxFreq=1020000000 CurrentFreq=306000000
Active GPU TPCs: 4
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=2133000000 FreqOverride=0
NV Power Mode: MAXN_SUPER
"""
LOCKED = CLOCKS.replace("MinFreq=729600", "MinFreq=1728000").replace("MinFreq=306000000", "MinFreq=1020000000").replace("ide=0", "ide=1")


def test_an_orin_nano_is_named_with_its_jetpack_tensorrt_mode_and_clocks(orin_nano, commands):
    board = identify(orin_nano, commands(clocks=CLOCKS))
    assert board.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (board.soc, board.module) == ("Orin", "orin-nano-8gb-super")
    assert (board.l4t, board.jetpack, board.cuda, board.tensorrt, board.python_tensorrt) == ("36.4.4", "6.2.1", "12.6", "10.3.0.30", True)
    assert (board.power_mode, board.power_mode_id) == ("MAXN_SUPER", 2)
    assert board.clocks == Clocks(locked=False, gpu_mhz=306.0, gpu_highest_mhz=1020.0, memory_mhz=2133.0, tpcs=4)


def test_what_is_known_is_told_flat_for_a_report(orin_nano, commands):
    plain = identify(orin_nano, commands(clocks=CLOCKS)).to_dict()
    assert (plain["jetpack"], plain["clocks_locked"], plain["tpcs"]) == ("6.2.1", False, 4)
    assert not [value for value in plain.values() if value is None or isinstance(value, dict)]


def test_locked_clocks_are_one_speed_and_a_held_memory_clock(orin_nano, commands):
    assert identify(orin_nano, commands(clocks=LOCKED)).clocks.locked is True
    assert identify(orin_nano, commands(clocks=LOCKED.replace("FreqOverride=1", "FreqOverride=0"))).clocks.locked is False


def test_without_root_the_gpus_range_shows_that_clocks_are_free_and_one_speed_proves_nothing(orin_nano, commands):
    assert identify(orin_nano, commands()).clocks == Clocks(locked=False, gpu_mhz=306.0, gpu_highest_mhz=1020.0)
    (orin_nano / "sys/class/devfreq/17000000.gpu/min_freq").write_text("1020000000")
    assert identify(orin_nano, commands()).clocks.locked is None


def test_a_mode_below_the_higher_clocks_makes_it_the_plain_module(orin_nano, commands):
    assert identify(orin_nano, commands(mode="NV Power Mode: 15W\n0\n")).module == "orin-nano-8gb"
    verbose = "NVPM VERB: Config file: /etc/nvpmodel.conf\nNV Power Mode: 25W\nNVPM VERB: 1\n"
    assert identify(orin_nano, commands(mode=verbose)).power_mode_id == 1


def test_the_package_tells_l4t_where_the_release_file_is_gone(orin_nano, commands):
    (orin_nano / "etc/nv_tegra_release").unlink()
    board = identify(orin_nano, commands(packages="nvidia-l4t-core\t38.4.0-20251210101010\n"))
    assert (board.l4t, board.jetpack, board.tensorrt, board.python_tensorrt) == ("38.4.0", "7.1", None, False)


@pytest.mark.parametrize(
    ("l4t", "wanted"),
    [
        ("36.4.0", "6.1"),
        ("36.4.3", "6.2"),
        ("36.4.7", "6.2.1"),
        ("39.2.0", "7.2"),
        ("39.9.9", "7.x"),
        ("41.0", None),
        ("odd", None),
        (None, None),
    ],
)
def test_jetpack_follows_from_l4t_and_an_unknown_one_keeps_its_family(l4t, wanted):
    assert jetpack(l4t) == wanted


def test_garbled_files_and_commands_leave_gaps_and_no_error(orin_nano, commands):
    (orin_nano / "etc/nv_tegra_release").write_text("# R (release), REVISION: , GCID")
    (orin_nano / "proc/device-tree/compatible").write_bytes(b"\xff\xfenvidia,tegra999\0")
    (orin_nano / "usr/local/cuda/version.json").write_text("{")
    (orin_nano / "sys/class/devfreq/17000000.gpu/min_freq").write_text("many")
    board = identify(orin_nano, commands(clocks="GPU MinFreq=x MaxFreq=y", packages="no packages found", mode="NVPM ERROR"))
    assert (board.soc, board.module, board.l4t, board.jetpack, board.cuda, board.tensorrt) == ("tegra999", None, None, None, None, None)
    assert (board.power_mode, board.power_mode_id, board.clocks.locked) == (None, None, None)


def test_another_box_is_no_jetson(tmp_path):
    assert identify(tmp_path) is None


def test_a_command_that_is_missing_or_fails_says_nothing():
    assert ask(["a-command-that-nobody-has"]) == ""
    assert ask(["false"]) == ""
    assert ask(["echo", "yes"]) == "yes\n"


def test_every_module_has_a_profile():
    from edgemm.box.devices.boards import known

    assert set(MODULES.values()) <= set(known())


def test_advice_names_the_command_for_each_thing_to_mend(orin_nano, commands):
    bare = identify(orin_nano, commands(clocks=CLOCKS, packages="", mode="NV Power Mode: 15W\n0\n"))
    said = "\n".join(advice.on_jetson(bare))
    assert "TensorRT is not installed: sudo apt-get install -y tensorrt python3-libnvinfer" in said
    assert "the power mode is 15W: `sudo nvpmodel -p --verbose` lists the modes" in said
    assert "the clocks are not locked, so timings will scatter: sudo jetson_clocks" in said
    assert advice.on_jetson(identify(orin_nano, commands(clocks=LOCKED))) == []


def test_advice_on_a_missing_binding_an_old_jetpack_and_a_broken_allocator(orin_nano, commands):
    board = identify(orin_nano, commands(clocks=LOCKED, packages="libnvinfer10\t10.3.0.30-1+cuda12.5\n"))
    assert "TensorRT is here without its Python binding" in advice.on_jetson(board)[0]
    for revision, words in ((("R36", "4.7"), "NvMapMemAllocInternalTagged"), (("R35", "4.1"), "JetPack 5.1.2 is too old for edgemm")):
        (orin_nano / "etc/nv_tegra_release").write_text(f"# {revision[0]} (release), REVISION: {revision[1]}, GCID: 1")
        assert words in "\n".join(advice.on_jetson(identify(orin_nano, commands(clocks=LOCKED))))


def test_doctor_on_a_jetson_prints_board_jetpack_power_and_heat_with_advice(orin_nano, commands, monkeypatch):
    from edgemm.box.devices import thermals
    from edgemm.verbs import doctor

    board, heat = identify(orin_nano, commands(clocks=CLOCKS, packages="")), thermals.look(orin_nano)
    monkeypatch.setattr(doctor, "identify", lambda: board)
    monkeypatch.setattr(doctor.thermals, "look", lambda: heat)
    monkeypatch.setattr(doctor, "problem", lambda target: "")  # importing every runtime is another test's
    printed = str(doctor.doctor())
    assert "board      NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (orin-nano-8gb-super, Orin)" in printed
    assert "jetpack    6.2.1 (L4T 36.4.4), CUDA 12.6, TensorRT missing" in printed
    assert "power      mode MAXN_SUPER, clocks not locked" in printed
    assert "celsius    cpu-thermal 48, gpu-thermal 50" in printed
    assert "advice: TensorRT is not installed: sudo apt-get install -y tensorrt python3-libnvinfer" in printed
    assert "advice: the clocks are not locked" in printed
    assert doctor.doctor().to_dict()["jetson"]["clocks"]["tpcs"] == 4
