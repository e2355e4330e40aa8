"""What compressing takes of the memory, told beforehand."""

from edgemm.pipeline import memory


def test_a_large_model_is_told_what_compressing_takes_and_a_small_one_nothing():
    assert memory.told(20 << 20) == ""
    peaks = memory.peaks_gib(604 << 20)
    assert 4.0 < peaks["int8"] < 5.5
    assert peaks["weights"] < peaks["int8"]
    words = memory.told(604 << 20)
    assert words.startswith(f"compress takes up to about {peaks['int8']:g} GiB of memory in INT8")
    assert "to spare" in words
