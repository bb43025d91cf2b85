"""The scans in a folder: every scan file, every zip, and every series of CT slices wherever its slices lie."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lungadv.data.ingest.contents import find_contents
from lungadv.data.ingest.files import file_uid
from lungadv.data.io.dicom import Series, find_series, read_slices
from lungadv.data.io.read import read_scan
from lungadv.data.manifest import scan_files
from lungadv.data.scan import Scan
from lungadv.utils.errors import InputError

__all__ = ["FoundScan", "find_scans"]


@dataclass(frozen=True)
class FoundScan:
    """A scan in a folder `root`: its path from there, no other's, and the name that its findings go by.

    The path of a series is the folder of its first slice; where that holds several, the series is named too.
    """

    root: Path
    path: str
    name: str
    series: Series | None = None

    @property
    def place(self) -> Path:
        """The file, or the folder of a series' first slice."""
        return Path(self.series.files[0]).parent if self.series else self.root / self.path

    def files(self) -> list[Path]:
        """The files that it is read from."""
        return list(self.series.files) if self.series else scan_files(self.place)

    def read(self) -> Scan:
        """Read it. Raises ScanError as `read_scan` does."""
        return read_slices(self.series) if self.series else read_scan(self.place)


def find_scans(root: Path, skip: Path | None = None) -> tuple[list[FoundScan], dict[str, str], int]:
    """The scans in a folder and below, `skip` left out -> (scans in the order of paths, {path: why it cannot be one}, other series).

    Slices of one SeriesInstanceUID are one scan, in however many folders. Localizers and series of other modalities are counted alone.
    What may be damaged slices is refused, folder by folder. So are the second of two scans of one name, and files that
    are named as cubes of nodules.
    Raises InputError for a folder without a scan.
    """
    contents = find_contents(root, skip)
    series, refused = _find_series(root, contents.folders)
    refused |= dict.fromkeys(contents.cubes, "is named as a cube of a nodule or its mask: rename it if it is a scan, else move it away")
    others = sum(bool(one.other) for one in series.values())
    found = [FoundScan(root, path, file_uid(path)) for path in contents.scans]
    found += [FoundScan(root, path, Path(path).stem) for path in contents.zips]
    found += _name_series(root, [one for one in series.values() if not one.other])
    if not (found or refused):
        raise InputError(f"'{root}' holds no scan that can be searched, but {others} series that are no CT: give a folder with chest CT")
    first = {}
    for scan in sorted(found, key=lambda scan: scan.path):
        if first.setdefault(scan.name, scan) is not scan:
            refused[scan.path] = f"has the name of '{first[scan.name].path}', and findings go by names: rename one"
    return list(first.values()), refused, others


def _find_series(root, folders):
    """The series of DICOM folders by uid and kind, parts of one put together; and {path: why} of what may be damaged slices."""
    series, refused = {}, {}
    for folder in folders:
        found, spoilt = find_series(root / folder)
        if spoilt:
            more = f", and {len(spoilt) - 1} more" if len(spoilt) > 1 else ""
            refused[f"{folder} (damaged slices)"] = f"{next(iter(spoilt.values()))}{more}"
        for one in found:
            key = one.uid, one.other
            series[key] = _join(series[key], one) if key in series else one
    return series, refused


def _join(first, second):
    """One series, of which slices lie in two folders."""
    return dataclasses.replace(first, **{name: getattr(first, name) + getattr(second, name) for name in ("files", "positions", "sops")})


def _name_series(root, series):
    """Series as scans: by their folder, and where several begin in one, by their uid too, as each needs a path of its own."""
    scans = [FoundScan(root, Path(one.files[0]).parent.relative_to(root).as_posix(), one.uid, one) for one in series]
    count = Counter(scan.path for scan in scans)
    return [scan if count[scan.path] == 1 else dataclasses.replace(scan, path=f"{scan.path} (series {scan.name})") for scan in scans]
