"""Arrays on disk: the parts that are read, files that grow, and what is refused."""

import resource

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lungadv.data.disk_array import stored_tensor, write_array, write_rows
from lungadv.utils.errors import InputError
from tests.processes import hand_over


def numbers(*shape, dtype=np.int16):
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(dtype)


def test_parts_of_an_array_are_those_of_memory(tmp_path):
    array = numbers(7, 5, 6)
    found = hand_over(write_array(array, tmp_path / "a"))[0]
    assert len(found) == 7 and found.shape == array.shape
    for index in (3, slice(1, 4), np.array([6, 0, 6]), (..., slice(2, 4)), array[:, 0, 0] > 0):
        np.testing.assert_array_equal(found[index], array[index])
    assert write_array(array[:0], tmp_path / "b")[:].shape == (0, 5, 6)


def test_a_file_that_grew_is_read_by_the_library_and_one_of_the_library_here(tmp_path):
    hu, outline = numbers(9, 1, 4, 4, 4), numbers(5, 1, 4, 4, 4, dtype=np.uint8)
    with write_rows(tmp_path / "a.safetensors") as writer:
        for part in range(3):
            writer.append("hu", hu[3 * part : 3 * part + 3])
            writer.append("outline", outline[2 * part : 2 * part + 2])
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["hu"], torch.from_numpy(hu)) and torch.equal(found["outline"], torch.from_numpy(outline))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    save_file(found, tmp_path / "b.safetensors")
    for name in ("a", "b"):
        np.testing.assert_array_equal(stored_tensor(tmp_path / f"{name}.safetensors", "outline")[:], outline)
        np.testing.assert_array_equal(stored_tensor(tmp_path / f"{name}.safetensors", "hu")[[8, 1]], hu[[8, 1]])


def test_rows_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rows of 'hu' are int16 \(3,\), those before int16 \(2,\)"), write_rows(tmp_path / "a") as writer:
        writer.append("hu", numbers(1, 2))
        writer.append("hu", numbers(1, 3))


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 20, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"])
def test_what_is_no_such_file_is_named(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="a.safetensors' holds no tensor 'hu' that can be read"):
        stored_tensor(tmp_path / "a.safetensors", "hu")


def test_a_file_that_is_cut_short_is_named(tmp_path):
    save_file({"hu": torch.zeros(100)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1])
    with pytest.raises(InputError, match="it is cut short"):
        stored_tensor(tmp_path / "a.safetensors", "hu")


def test_a_file_that_was_made_again_or_is_gone_is_not_mixed_with_what_was_opened(tmp_path):
    for name, shape in (("a", (4, 2)), ("b", (2, 4))):  # of the same size
        with write_rows(tmp_path / name) as writer:
            writer.append("hu", numbers(*shape))
    stored, written = stored_tensor(tmp_path / "a", "hu"), write_array(numbers(4, 2), tmp_path / "c")
    assert stored[[0, 3]].shape == written[[0, 3]].shape == (2, 2)
    (tmp_path / "b").replace(tmp_path / "a")
    (tmp_path / "c").unlink()
    for array in (stored, written):
        with pytest.raises(InputError, match="is gone or was made again meanwhile: open it again"):
            array[[0, 3]]
    np.testing.assert_array_equal(stored_tensor(tmp_path / "a", "hu")[:], numbers(2, 4))


def test_a_file_without_any_rows_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="a.safetensors' was given no rows: append"), write_rows(tmp_path / "a.safetensors"):
        pass
    assert not list(tmp_path.iterdir())


def test_reading_all_rows_one_by_one_takes_the_memory_of_one(tmp_path):
    with write_rows(tmp_path / "a.safetensors") as writer:
        for _ in range(64):
            writer.append("hu", np.zeros((4, 2**20), np.int16))  # 512 MiB together
    stored, before = stored_tensor(tmp_path / "a.safetensors", "hu"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(int(stored[row : row + 1].sum()) for row in range(len(stored))) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # KiB
