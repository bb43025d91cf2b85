"""A .zip that holds one scan file or one folder of DICOM slices."""

import errno
import posixpath
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungadv.data.io.volume import MOST_BYTES, naming
from lungadv.data.scan import ScanError

__all__ = ["unzipped"]


@contextmanager
def unzipped(path: Path, kinds: tuple) -> Iterator[Path]:
    """The one scan file, or else the folder of DICOM slices, in a .zip: in a temporary folder that is removed afterwards.

    kinds: the suffixes of scan files. Raises ScanError for a damaged archive, several scans, and members that would do harm.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with naming(path):
                inside = _extract(path, Path(folder).resolve(), kinds)
            yield inside
        except ScanError as error:
            raise ScanError(str(error).replace(str(Path(folder).resolve()), str(path))) from None


def _extract(path, folder, kinds):
    try:
        with zipfile.ZipFile(path) as archive:
            members = _check_members(archive.infolist())
            if len({member.filename.lower() for member in members}) < len(members):
                raise ScanError("has two members of one name: unpack it yourself")
            if sum(member.file_size for member in members) > MOST_BYTES or len(members) > 20_000:
                raise ScanError(f"unpacks to more than {MOST_BYTES} bytes or 20000 files: zip one scan alone")
            archive.extractall(folder, members)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError, struct.error) as error:
        raise ScanError(f"cannot be unpacked ({error}): copy it again, it is cut short or damaged") from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise ScanError(f"has members whose names no folder can hold together ({error.strerror}): zip the files anew") from None
        raise
    files = [file for file in sorted(folder.rglob("*")) if file.name.lower().endswith(kinds) and not file.name.startswith(".")]
    if len(files) > 1:
        raise ScanError(f"holds {len(files)} scans, such as '{files[0].name}' and '{files[1].name}': unpack it and give one of them")
    return files[0] if files else folder


def _check_members(infos):
    """The files among the members, each named with slashes whatever its archiver wrote, and checked."""
    for info in infos:
        info.filename = info.filename.replace("\\", "/")  # some archivers write Windows' own separator
    members = [info for info in infos if not info.filename.endswith("/")]
    for member in members:
        _check_name(member.orig_filename, member.filename)
        _check_member(member, member.orig_filename)
    return members


def _check_name(written, name):
    """A member must stay in the folder it is unpacked to. written: its name as it stands in the archive; name: with slashes."""
    parts = name.split("/")
    if not parts[0] or re.match("[A-Za-z]:", parts[0]) or posixpath.normpath(name).split("/")[0] == "..":
        raise ScanError(f"has the member '{written}', which would leave the folder it is unpacked to: do not trust this file")
    if ".." in parts:
        raise ScanError(f"has the member '{written}', whose name goes up and down: zip the files anew")


def _check_member(member, name):
    """A member must be a plain file that is packed in a way of bounded memory."""
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ScanError(f"has the member '{name}', which is a link or no plain file: zip the files themselves")
    if member.flag_bits & 1:
        raise ScanError(f"has the member '{name}', which is encrypted: unpack it yourself")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ScanError(f"has the member '{name}', which is packed in an uncommon way: zip it by deflate")
