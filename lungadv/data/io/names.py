"""Names of files as SimpleITK takes them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungadv.data.scan import ScanError
from lungadv.utils.errors import printable

__all__ = ["check_writable", "sitk_name"]


def check_writable(path: Path) -> None:
    """Raise ScanError for the path of a file or folder to write that SimpleITK cannot: one with bytes that are not UTF-8."""
    if printable(path.absolute()) != str(path.absolute()):
        raise ScanError(f"'{path}' cannot be written, a name in this path is not UTF-8 text: rename it")


@contextmanager
def sitk_name(path: Path) -> Iterator[str]:
    """A name of the file `path` that SimpleITK can read: a name that is not UTF-8 would end the whole process without a word."""
    name = str(path)
    if printable(name) == name:
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"link{printable(''.join(path.suffixes[-2:]))}"  # such as .nii.gz
        link.symlink_to(path.absolute())
        yield str(link)
