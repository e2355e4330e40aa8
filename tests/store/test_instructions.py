"""Instruction sets, and what follows from them."""

import pytest

from edgemm.store import instructions
from edgemm.store.instructions import saturates


@pytest.mark.parametrize(
    ("having", "cut"),
    [
        ({"avx2"}, True),
        ({"avx2", "avx512f"}, True),
        ({"avx2", "avx_vnni"}, False),
        ({"avx2", "avx512f", "avx512_vnni"}, False),
        ({"avx2", "amx_int8"}, False),
        ({"asimddp"}, False),
        (set(), False),
    ],
)
def test_sums_of_bytes_are_cut_without_instructions_for_them(having, cut):
    assert saturates(having) is cut


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limit_makes_a_newer_processor_an_older_one(monkeypatch, name):
    for other in instructions.ONEDNN_LIMITS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(instructions, "instructions", lambda: frozenset({"avx2", "avx512f", "avx512_vnni"}))
    assert not saturates()
    monkeypatch.setenv(name, "AVX2")
    assert saturates()
