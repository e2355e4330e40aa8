"""Which process this is, where a launcher (torchrun, mpirun) started the same command several times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

COUNTED = (
    ("RANK", "WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)  # fmt: skip
"""Variables with the number of a process, and how many there are."""
MORE = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_first() -> bool:
    """Whether this is the first process of its launch, or the only one: the one that writes, and speaks."""
    counts = [(os.environ.get(rank, ""), os.environ.get(size, "")) for rank, size in COUNTED]
    return not any(rank.isdigit() and size.isdigit() and int(size) > 1 and int(rank) > 0 for rank, size in counts)


def is_together() -> bool:
    """Whether there are several."""
    return any(os.environ.get(size, "").isdigit() and int(os.environ[size]) > 1 for _, size in COUNTED)


@contextmanager
def alone() -> Iterator[None]:
    """While the block runs, nothing in this process knows of the others: what trains in it does not wait for them."""
    hidden = {name: os.environ.pop(name) for name in (*(name for pair in COUNTED for name in pair), *MORE) if name in os.environ}
    try:
        yield
    finally:
        os.environ |= hidden
