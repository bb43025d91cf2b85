"""Read a scan from any of the files that hospitals and challenges give: MetaImage, NRRD, NIfTI, DICOM, or a .zip of one."""

from collections.abc import Callable
from pathlib import Path

from lungadv.data.io.archive import unzipped
from lungadv.data.io.dicom import read_series
from lungadv.data.io.header import check_file_size, read_planes
from lungadv.data.io.metaimage import read_metaimage_header
from lungadv.data.io.nifti import read_nifti_header
from lungadv.data.io.nrrd import read_nrrd_header
from lungadv.data.io.volume import empty_scan, fill_scan, naming, rescale
from lungadv.data.scan import Scan, ScanError
from lungadv.utils.errors import has_control, printable

__all__ = ["FILE_KINDS", "files_of", "read_header", "read_scan"]

HEADER_READERS = {
    ".mhd": read_metaimage_header, ".mha": read_metaimage_header, ".nrrd": read_nrrd_header, ".nhdr": read_nrrd_header,
    ".nii": read_nifti_header, ".nii.gz": read_nifti_header,
}  # fmt: skip
FILE_KINDS = tuple(HEADER_READERS)


def read_scan(path: str | Path, series: str | None = None) -> Scan:
    """Read a scan: an .mhd, .mha, .nrrd, .nhdr or .nii(.gz) file, a folder with DICOM slices, or a .zip that holds one of these.

    series: the SeriesInstanceUID to read where a folder (searched with its subfolders) holds several CT series.
    Returns a Scan: HU as int16 (z, y, x), LPS geometry. What lies below -1024 HU or equals a DICOM pixel padding value is AIR and
    counted in `padded`. uid is the file's name without suffix, or the SeriesInstanceUID.
    Raises ScanError, one line that names the path, the fault and the remedy, for anything else than one sound three-dimensional CT volume.
    """
    return _read(Path(path), series, voxels=True)


def read_header(path: str | Path, series: str | None = None) -> Scan:
    """The geometry alone of what `read_scan` reads, as a Scan whose voxels are all AIR and take no memory. Raises ScanError alike."""
    return _read(Path(path), series, voxels=False)


def files_of(path: Path) -> list[Path]:
    """The files that a scan file consists of: itself, and the data files that its header names. Raises ScanError as `read_header`."""
    with naming(path):
        _, read = _kind_of(path)
        return list(dict.fromkeys([path, *read(path).files]))


def _read(path, series, voxels):
    if path.is_dir():
        return read_series(path, series, voxels)
    if not path.is_file():
        raise ScanError(f"'{path}' does not exist: give a scan file or the folder of a DICOM series")
    if path.suffix.lower() == ".zip":
        with unzipped(path, FILE_KINDS) as inside:
            return _read(inside, series, voxels)
    with naming(path):
        if series is not None:
            raise ScanError(f"is one scan, not a folder of several: leave out the series {series}")
        uid, read = _kind_of(path)
        header = read(path)
        scan = empty_scan(header.size, header.spacing, header.origin, header.direction, uid)
        check_file_size(header)
        if not voxels:
            return scan
        return fill_scan(scan, ((rescale(plane, header.slope, header.intercept), None) for plane in read_planes(header)))


def _kind_of(path: Path) -> tuple[str, Callable]:
    """A file's name without its suffix, and the function that reads its header."""
    if printable(path.name) != path.name:
        raise ScanError("has a name that is not UTF-8 text, and the name is the scan's id in tables: rename it")
    if has_control(path.name):  # it becomes the scan's id, in tables of a line each
        raise ScanError("has a name with a line break or another control character: rename it")
    for kind, read in HEADER_READERS.items():
        if path.name.lower().endswith(kind):
            return path.name[: -len(kind)], read
    headers = [path.with_suffix(kind).name for kind in (".mhd", ".nhdr") if path.with_suffix(kind).is_file()]
    if path.suffix.lower() in (".raw", ".zraw") and headers:
        raise ScanError(f"holds the voxels alone: give its header, '{headers[0]}'")
    raise ScanError(f"is no scan file this reads ({', '.join(FILE_KINDS)}, .zip); of a DICOM series give the folder")
