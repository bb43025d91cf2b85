"""One DICOM slice: its header, which is checked before a pixel is read, and its pixels in HU.

pydicom reads the header and the stored pixels; SimpleITK (GDCM) decodes what is compressed.
"""

import math
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungadv.data.io.names import sitk_name
from lungadv.data.io.volume import CUT_SHORT, MOST_PACKED, rescale
from lungadv.data.scan import AIR, ScanError

if TYPE_CHECKING:
    import pydicom

__all__ = ["check_slice", "is_ct_slice", "number_of", "numbers_of", "read_pixels", "read_slice_header", "shape_of", "text_of"]

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class
DEFLATED = "1.2.840.10008.1.2.1.99"  # transfer syntax
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "Manufacturer", "ManufacturerModelName", "SeriesDescription",
    "PatientID", "KVP", "SliceThickness", "XRayTubeCurrent", "ExposureTime", "Exposure", "ConvolutionKernel", "StudyInstanceUID",
    "SeriesInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType",
]  # fmt: skip


def read_slice_header(file: Path) -> "pydicom.FileDataset | None":
    """A file's DICOM header without its pixels; None for what is no image. Raises ScanError for what may be a damaged slice."""
    from pydicom.filereader import read_file_meta_info

    if not _is_dicom(file):
        return None
    if _guarded(file, lambda: read_file_meta_info(file).get("TransferSyntaxUID")) == DEFLATED:
        raise ScanError(f"file '{file.name}' is deflated as a whole: convert it to Explicit VR Little Endian (dcmconv +te)")
    header = _read_dataset(file, stop_before_pixels=True, specific_tags=TAGS)
    if "Rows" not in header and CT_IMAGE in (text_of(header, "SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")):
        raise ScanError(f"file '{file.name}' is a CT slice whose header ends too early{CUT_SHORT}")
    if "Rows" not in header:
        return None
    uid = text_of(header, "SeriesInstanceUID")
    if not uid:
        raise ScanError(f"file '{file.name}' has no SeriesInstanceUID: export the series again, or remove the file")
    if not re.fullmatch(r"[0-9][0-9.]{0,63}", uid):  # files are named after it
        raise ScanError(f"file '{file.name}' has the SeriesInstanceUID {uid[:70]!r}, which is not digits and dots: export the series again")
    return header


def _is_dicom(file):
    """Whether a file is DICOM. Raises ScanError for one that is not, though its name may be that of a slice."""
    if not stat.S_ISREG(file.stat().st_mode):
        return False
    with open(file, "rb") as stream:
        if stream.read(132)[128:] == b"DICM":
            return True
    named_otherwise = re.fullmatch(r"\.(?!dcm|ima|dicom)[a-z]\w*", file.suffix.lower()) or file.name.startswith(".")
    if named_otherwise or file.name.upper() in ("LICENSE", "README", "VERSION", "LOCKFILE"):
        return False
    raise ScanError(f"file '{file.name}' is no DICOM file, though its name may be that of a slice: copy it again, or remove it")


def _read_dataset(file, **options):
    from pydicom import dcmread

    return _guarded(file, dcmread, file, **options)


def _guarded(file: Path, read: Callable, *arguments, **options) -> Any:
    """What pydicom reads, without its warnings; whatever goes wrong in a damaged file becomes one ScanError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(*arguments, **options)
        except Exception as error:  # pydicom raises errors of many kinds
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise ScanError(f"file '{file.name}' cannot be read ({reason}): copy it again, or remove it") from None


def text_of(header: "pydicom.FileDataset", name: str) -> str:
    """An attribute as text; '' where it is absent."""
    value = _guarded(Path(header.filename), header.get, name)
    return "" if value is None else str(value).strip("\0 ")


def numbers_of(header: "pydicom.FileDataset", name: str, count: int, default: tuple | None = None) -> tuple:
    """`count` finite numbers of an attribute; `default` where it is absent or empty. Raises ScanError for anything else."""
    file = Path(header.filename)
    value = _guarded(file, header.get, name)
    if value is None or value == "" or np.size(value) == 0:
        if default is None:
            raise ScanError(f"file '{file.name}' has no {name}: it is no complete CT slice; export the series again, or remove the file")
        return default
    try:
        numbers = tuple(float(number) for number in np.atleast_1d(value))
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ScanError(f"file '{file.name}' has the {name} '{str(value)[:60]}', not {count} finite number(s): export the series again")
    return numbers


def number_of(header: "pydicom.FileDataset", name: str) -> float:
    """A number; NaN where it is absent. Raises ScanError for anything else."""
    return numbers_of(header, name, 1, (math.nan,))[0]


def shape_of(header: "pydicom.FileDataset") -> tuple[int, int]:
    """Rows and columns."""
    return tuple(int(numbers_of(header, name, 1)[0]) for name in ("Rows", "Columns"))


def is_ct_slice(header: "pydicom.FileDataset") -> bool:
    """Whether a header is that of a CT image and no localizer."""
    kind = text_of(header, "Modality"), text_of(header, "SOPClassUID")
    return kind == ("CT", CT_IMAGE) and "LOCALIZER" not in text_of(header, "ImageType")


def check_slice(file: Path, header: "pydicom.FileDataset") -> None:
    """Raises ScanError unless a slice is a grey CT image of one frame that says how its values become HU."""
    name = f"file '{file.name}'"
    modality = text_of(header, "Modality")
    if modality != "CT":
        raise ScanError(f"{name} belongs to a series of modality {modality or '(none)'}: give a CT series")
    if "LOCALIZER" in text_of(header, "ImageType"):
        raise ScanError(f"{name} is a localizer, an overview image: remove it from the series")
    if text_of(header, "NumberOfFrames") not in ("", "1"):
        raise ScanError(f"{name} holds several frames (enhanced CT): convert it to one file a slice")
    if text_of(header, "SamplesPerPixel") != "1" or text_of(header, "PhotometricInterpretation") != "MONOCHROME2":
        raise ScanError(f"{name} is no grey CT image ({text_of(header, 'PhotometricInterpretation')}, a colour capture?): remove it")
    if numbers_of(header, "RescaleSlope", 1)[0] == 0:
        raise ScanError(f"{name} has RescaleSlope 0: export the series again")
    numbers_of(header, "RescaleIntercept", 1)
    if text_of(header, "RescaleType") not in ("", "HU", "US"):  # US: unspecified
        raise ScanError(f"{name} has values of the type {text_of(header, 'RescaleType')}, not HU: give the series in HU")
    _check_bits(file, header)


def _check_bits(file, header):
    """Raises ScanError unless the pixels are stored as those of a CT slice and the file is long enough for them."""
    name = f"file '{file.name}'"
    stored = [numbers_of(header, tag, 1)[0] for tag in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")]
    if stored[0] != 16 or not 1 <= stored[1] <= 16 or stored[2] != stored[1] - 1 or stored[3] not in (0, 1):
        bits = f"{stored[1]:g} of {stored[0]:g} bits up to bit {stored[2]:g}"
        raise ScanError(f"{name} stores {bits}, as no CT slice does: export the series again")
    promised = 2 * math.prod(shape_of(header))
    if file.stat().st_size * (MOST_PACKED if _is_compressed(file, header) else 1) < promised:
        raise ScanError(f"{name} is too short for the {promised} bytes of pixels of its header{CUT_SHORT}")


def _is_compressed(file, header):
    return _guarded(file, lambda: header.file_meta.TransferSyntaxUID.is_encapsulated)


def read_pixels(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """HU (y, x) of a slice, by its own slope and intercept, and where it is padding (None: nowhere). Raises ScanError."""
    dataset = _read_dataset(file)
    slope, intercept = (numbers_of(dataset, name, 1)[0] for name in ("RescaleSlope", "RescaleIntercept"))
    shape = shape_of(dataset)
    if _is_compressed(file, dataset):
        values = _decode(file, shape)
    else:
        values = rescale(_stored_values(file, dataset, shape), slope, intercept)
    low = number_of(dataset, "PixelPaddingValue")
    if math.isnan(low):
        return values, None
    signed = int(dataset.PixelRepresentation)
    ends = [low, numbers_of(dataset, "PixelPaddingRangeLimit", 1, (low,))[0]]
    low, high = sorted((end - 65536 if signed and end > 32767 else end) * slope + intercept for end in ends)  # written as unsigned
    padding = (values > low - abs(slope) / 2) & (values < high + abs(slope) / 2)
    if high > AIR / 2 and padding.any():
        raise ScanError(f"file '{file.name}' has a PixelPaddingValue that stands for {high:g} HU, tissue: remove it if it is wrong")
    return values, padding


def _stored_values(file, dataset, shape):
    """The stored values (y, x) of an uncompressed slice."""
    data = _guarded(file, dataset.get, "PixelData")
    if not isinstance(data, bytes):
        raise ScanError(f"file '{file.name}' has no PixelData: copy it again, it is damaged")
    if len(data) != 2 * math.prod(shape):
        raise ScanError(f"file '{file.name}' holds {len(data)} bytes of pixels, its header says {2 * math.prod(shape)}: copy it again")
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    values = np.frombuffer(data, order + ("i2" if int(dataset.PixelRepresentation) else "u2")).reshape(shape)
    unused = 16 - int(dataset.BitsStored)  # may hold anything, and a sign has to be carried through them
    return values << unused >> unused if unused else values


def _decode(file, shape):
    """HU (y, x) of a compressed slice; GDCM applies the slope and intercept."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    try:
        with sitk_name(file) as name:
            reader.SetFileName(name)
            reader.ReadImageInformation()
            if reader.GetSize() != (*shape[::-1], 1) or reader.GetNumberOfComponents() != 1:
                raise RuntimeError("its size is another than the header's")
            return sitk.GetArrayFromImage(reader.Execute())[0]
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("ERROR: ")[-1]
        raise ScanError(f"file '{file.name}' cannot be decompressed ({reason}): decompress the series first (gdcmconv -w)") from None
