"""An npz that grows batch by batch."""

import tracemalloc

import numpy as np
import pytest

from edgemm.errors import DataError
from edgemm.store import growing_npz


@pytest.mark.parametrize("rows", [1, 9, 10, 1_000, 123_456])
def test_what_was_written_in_batches_is_read_as_one(tmp_path, rows):
    whole = {"image": np.arange(rows * 6).reshape(rows, 2, 3).astype(np.uint8), "level": np.linspace(0, 1, rows, dtype=np.float32)}
    for size in (64, 5000):
        batches = ({name: array[at : at + size] for name, array in whole.items()} for at in range(0, rows, size))
        growing_npz.write(tmp_path / f"{size}.npz", batches)
    with np.load(tmp_path / "64.npz", allow_pickle=False) as arrays:
        assert set(arrays) == set(whole)
        assert all(np.array_equal(arrays[name], array) and arrays[name].dtype == array.dtype for name, array in whole.items())
    assert (tmp_path / "64.npz").read_bytes() == (tmp_path / "5000.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5000.npz", "64.npz"]


def test_memory_is_that_of_a_batch(tmp_path):
    def batches():
        for number in range(400):
            yield {"audio": np.full((64, 1000), number, np.float32)}

    tracemalloc.start()
    growing_npz.write(tmp_path / "test.npz", batches())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "test.npz").stat().st_size > 100e6
    assert peak < 8e6


def test_rows_of_another_shape_are_refused(tmp_path):
    batches = [{"imu": np.zeros((2, 3), np.float32)}, {"imu": np.zeros((2, 4), np.float32)}]
    with pytest.raises(DataError, match=r"'imu': rows have the shapes \(3,\) and \(4,\)"):
        growing_npz.write(tmp_path / "test.npz", batches)
    assert not list(tmp_path.iterdir())
