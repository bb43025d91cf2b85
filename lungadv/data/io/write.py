"""Write scans: MetaImage pairs, and DICOM series of phantoms. One scan always gives the same bytes."""

import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np

from lungadv.data.io.names import check_writable
from lungadv.data.io.volume import silence_itk
from lungadv.data.scan import Scan, ScanError
from lungadv.utils.files import guard_disk

__all__ = ["write_scan", "write_series", "write_volume"]


def write_scan(scan: Scan, path: str | Path) -> None:
    """Write a scan as `path` (.mhd) and its compressed voxels beside it (.zraw)."""
    write_volume(scan.hu, scan, path)


def write_volume(values: np.ndarray, scan: Scan, path: str | Path, packed: bool = True) -> None:
    """Write an array (z, y, x) on the grid of `scan`, such as a mask, as `path` (.mhd) and .zraw or, not `packed`, .raw.

    Both are written under temporary names and renamed, the header last. Raises ScanError for another suffix or shape, and InputError when
    the disk is full.
    """
    import SimpleITK as sitk

    path = Path(path)
    check_writable(path)
    if path.suffix != ".mhd":
        raise ScanError(f"'{path}': scans are written as .mhd")
    if np.shape(values) != scan.hu.shape:
        raise ScanError(f"'{path}': an array of shape {np.shape(values)} does not lie on the scan's grid {scan.hu.shape}")
    image = sitk.GetImageFromArray(values.astype(np.uint8) if values.dtype == bool else values)
    image.SetSpacing(scan.spacing)
    image.SetOrigin(scan.origin)
    image.SetDirection(scan.direction.ravel().tolist())
    header = path.with_name(f".{os.getpid()}.{path.name}")
    suffix = ".zraw" if packed else ".raw"
    data = header.with_suffix(suffix)
    with guard_disk(path.parent):
        try:
            with silence_itk():
                sitk.WriteImage(image, str(header), useCompression=packed, compressionLevel=1)
            header.write_text(header.read_text().replace(data.name, path.with_suffix(suffix).name))
            os.replace(data, path.with_suffix(suffix))
            os.replace(header, path)
        finally:
            data.unlink(missing_ok=True)
            header.unlink(missing_ok=True)


def write_series(scan: Scan, folder: str | Path) -> None:
    """Write a scan as the DICOM CT series of a phantom into a new folder: slice z as the file z + 1, the scan's uid as SeriesInstanceUID.

    A left-handed direction is read back with its slices in reverse order: DICOM stores no slice axis.
    The folder appears when it is whole: one that lacks slices at its end would be read as a shorter scan.
    Raises ScanError for a uid that is none, or leaves no room for those of the slices. Raises InputError when the disk is full.
    Source: DICOM PS3.3, A.3 (CT Image IOD); empty are the attributes of type 2 that a phantom has no value for.
    """
    if not re.fullmatch(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*", scan.uid) or len(scan.uid) > 55:
        raise ScanError(f"scan '{scan.uid}': a DICOM series needs a uid like 1.2.40: at most 55 digits and dots, no leading zeros")
    folder = Path(folder)
    check_writable(folder)
    if folder.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    temporary = folder.with_name(f".{os.getpid()}.{folder.name}")
    temporary.mkdir(parents=True)
    with guard_disk(folder.parent):
        try:
            _write_slices(scan, temporary)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_slices(scan, folder):
    """Write the slices of a scan as DICOM files."""
    import SimpleITK as sitk

    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    series = _series_attributes(scan)
    for z, position in enumerate(scan.to_world([[z, 0, 0] for z in range(len(scan.hu))])):
        image = sitk.GetImageFromArray(scan.hu[z])
        image.SetSpacing(scan.spacing[:2])
        slice_of = {
            "0008|0018": f"{scan.uid}.3.{z + 1}",  # SOP instance
            "0020|0013": str(z + 1),  # instance number
            "0020|0032": _decimals(*position),  # position
        }
        for tag, value in (series | slice_of).items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{z + 1:04d}.dcm"))
        with silence_itk():
            writer.Execute(image)


def _series_attributes(scan):
    """The attributes that all slices share. Left to itself, SimpleITK puts the time of writing and random numbers into them."""
    across, down, _ = scan.direction.T
    return {
        "0008|0008": "DERIVED\\SECONDARY\\AXIAL",  # image type: not acquired but simulated
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2",  # SOP class: CT image storage
        "0008|0020": "20000101",  # study date, constant
        "0008|0030": "000000",  # study time
        "0008|0050": "",  # accession number
        "0008|0060": "CT",  # modality
        "0008|0070": "lungadv",  # manufacturer
        "0008|0090": "",  # referring physician
        "0010|0010": "Phantom^Lung",  # patient name
        "0010|0020": scan.uid,  # patient ID
        "0010|0030": "",  # birth date
        "0010|0040": "",  # sex
        "0018|0015": "CHEST",  # body part
        "0018|0050": _decimals(scan.spacing[2]),  # slice thickness
        "0018|0060": "",  # kVp
        "0018|5100": "HFS",  # patient position: head first, supine
        "0020|000d": f"{scan.uid}.1",  # study
        "0020|000e": scan.uid,  # series
        "0020|0010": "1",  # study ID
        "0020|0011": "1",  # series number
        "0020|0012": "1",  # acquisition number
        "0020|0037": _decimals(*across, *down),  # orientation
        "0020|0052": f"{scan.uid}.2",  # frame of reference
        "0020|1040": "",  # position reference
        "0028|1052": "0",  # rescale intercept
        "0028|1053": "1",  # rescale slope
        "0028|1054": "HU",  # rescale type
    }


def _decimals(*values):
    """DICOM decimal strings: at most 16 characters each."""
    return "\\".join(f"{value:.10g}" for value in values)
