import pytest

from lungadv.utils.errors import InputError, plural
from lungadv.utils.files import atomic_write, repo_root


def test_atomic_write_keeps_the_old_file_when_the_new_one_fails(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
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
