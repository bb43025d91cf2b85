import errno
import os

import pytest

from lungadv.utils.errors import InputError, plural
from lungadv.utils.files import atomic_write, read_json, repo_root


def test_atomic_write_keeps_the_old_file_when_the_new_one_fails(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a":' * 5000, "\ud800"])
def test_what_is_no_json_of_names_and_values_is_one_error(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match="a.json' (cannot be read as|holds no names and values of) JSON") as error:
        read_json(path)
    assert "\n" not in str(error.value)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), RuntimeError(f"library: {os.strerror(errno.ENOSPC)} (os error 28)")],
)
def test_a_full_disk_is_one_error_whoever_meets_it(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(InputError, match=f"no space is left on the disk of '{tmp_path}': make room"), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_clone_is_found_from_a_folder_inside_it(tmp_path):
    for name in ("settings.ini", "Snakefile"):
        (tmp_path / name).touch()
    inside = tmp_path / "nbs" / "deeper"
    inside.mkdir(parents=True)
    assert repo_root(inside) == tmp_path


def test_counts_in_words():
    assert plural(1, "scan") == "1 scan" and plural(2, "scan") == "2 scans" and plural(0, "scan") == "0 scans"
    assert issubclass(InputError, Exception)
