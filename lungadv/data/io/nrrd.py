"""NRRD (.nrrd, .nhdr), whose header says what its world is. Source: https://teem.sourceforge.net/nrrd/format.html.

SimpleITK reads size, geometry and type. The names of files beside a check are the cases of test_nrrd that need it.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungadv.data.io.header import VolumeHeader, check_skip, header_of, pixel_type, read_information
from lungadv.data.io.text_header import beside, field_of, numbers_in, split_fields, start_of
from lungadv.data.scan import ScanError

__all__ = ["read_nrrd_header"]

SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")


def read_nrrd_header(path: Path) -> VolumeHeader:
    """The header of a .nrrd or .nhdr. Raises ScanError for what is not one complete three-dimensional CT volume."""
    text = start_of(path)
    blank = re.search(rb"\r?\n\r?\n", text)
    if not re.match(rb"NRRD000\d\r?\n", text):
        raise ScanError("is no NRRD file: is it complete, and the kind of file its name says?")
    end = blank.end() if blank else len(text)
    lines = text[:end].decode("latin-1").split("\n")[1:]
    fields = split_fields([line for line in lines if not line.startswith("#") and ":=" not in line], ":")
    _check_fields(fields)
    data = fields.get("data file", fields.get("datafile"))
    if data is not None and re.match(r"LIST\b|\S*%0?\d*d\S* ", data):
        raise ScanError("lists several data files: store it as one .nrrd")
    files = (path if data is None else beside(path, data),)  # nrrd_up.nhdr
    skip = numbers_in("byte skip", fields.get("byte skip", fields.get("byteskip", "0")), 1, int)[0]
    if skip != -1:
        check_skip(skip)  # nrrd_skip.nhdr
    with _plainly_named(path, text[:end], data, files[0]) as plain:
        reader = read_information(plain, "NrrdImageIO")
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    packed = fields["encoding"].lower() != "raw"
    return header_of(reader, pixel_type(reader, order), files, skip, start=end if data is None else 0, packed=packed)


@contextmanager
def _plainly_named(path: Path, header: bytes, data: str | None, file: Path) -> Iterator[Path]:
    """A .nhdr under a name that SimpleITK can read, with its data `file` beside it: SimpleITK opens both, unlike those of .mhd."""
    if data is None or f"{path}{data}".isascii():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(file.absolute())
        plain = Path(folder) / "header.nhdr"
        plain.write_bytes(re.sub(rb"(?im)^[ \t]*data ?file[ \t]*:[^\r\n]*", b"data file: data", header))
        yield plain


def _check_fields(fields):
    """What a header must say, or may not. SimpleITK takes a default instead, or reads what is none of CT."""
    count = numbers_in("dimension", field_of(fields, "dimension"), 1, int)[0]
    if count != 3:  # flat.nrrd, rgb.nrrd
        raise ScanError(f"is {count}-dimensional ({fields.get('kinds', 'a series in time?')}): give one three-dimensional CT volume")
    space = field_of(fields, "space").lower()
    if space not in SPACES:  # nrrd_scanner.nhdr
        raise ScanError(f"has the space '{space}', which does not say where left is: store it in the space left-posterior-superior")
    if set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"mm"}:  # nrrd_metres.nhdr
        raise ScanError(f"has the space units {fields['space units']}: store it in mm")
    field_of(fields, "space directions")  # nrrd_axes.nhdr
    field_of(fields, "space origin")  # nrrd_origin.nhdr
    encoding = field_of(fields, "encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):  # nrrd_text.nhdr
        raise ScanError(f"has the encoding '{encoding}': store it as raw or gzip")
    if fields.get("line skip", fields.get("lineskip", "0")) != "0":  # nrrd_lines.nhdr
        raise ScanError("skips lines of its data file: store it as one .nrrd")
