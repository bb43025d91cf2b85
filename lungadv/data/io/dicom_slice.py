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
from lungadv.data.io.volume import CUT_SHORT, MOST_PACKED, rescale, silence_itk
from lungadv.data.scan import AIR, ScanError

if TYPE_CHECKING:
    import pydicom

__all__ = [
    "begins_as_dicom", "check_slice", "is_ct_slice", "is_image", "number_of", "numbers_of", "other_kind", "read_full_header",
    "read_pixels", "read_slice_header", "shape_of", "text_of",
]  # fmt: skip

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class
DEFLATED = "1.2.840.10008.1.2.1.99"  # transfer syntax
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # SOP classes of pictures of a screen begin so
ADD_META = "add the meta header with its TransferSyntaxUID (pydicom: dcmread with force=True, save_as), or export the series again"
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "Manufacturer", "ManufacturerModelName", "SeriesDescription",
    "PatientID", "KVP", "SliceThickness", "XRayTubeCurrent", "ExposureTime", "Exposure", "ConvolutionKernel", "StudyInstanceUID",
    "SeriesInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "AcquisitionNumber",
]  # fmt: skip


def read_slice_header(file: Path) -> "pydicom.FileDataset | None":
    """A file's DICOM header without its pixels; None for what belongs to no series. Raises ScanError for what may be a damaged slice.

    Objects of other modalities have one, too, images or not; see `is_image` and `other_kind`.
    """
    if not _is_dicom(file):
        return None
    if _is_deflated(file):
        raise ScanError(f"file '{file.name}' is deflated as a whole: convert it to Explicit VR Little Endian (dcmconv +te)")
    header = _read_dataset(file, stop_before_pixels=True, specific_tags=TAGS)
    classes = text_of(header, "SOPClassUID"), _guarded(file, header.file_meta.get, "MediaStorageSOPClassUID")
    uid, modality = text_of(header, "SeriesInstanceUID"), text_of(header, "Modality")
    if not header.preamble and not (modality or any(classes)):
        _refuse_slice_name(file)
        return None
    if not is_image(header):
        if CT_IMAGE in classes:
            raise ScanError(f"file '{file.name}' is a CT slice whose header ends too early{CUT_SHORT}")
        return header if uid and modality else None
    if not uid and not other_kind(header):
        raise ScanError(f"file '{file.name}' has no SeriesInstanceUID: export the series again, or remove the file")
    if not re.fullmatch(r"[0-9][0-9.]{0,63}", uid) and not other_kind(header):  # files are named after it
        raise ScanError(f"file '{file.name}' has the SeriesInstanceUID {uid[:70]!r}, which is not digits and dots: export the series again")
    return header


def read_full_header(file: Path) -> "pydicom.FileDataset":
    """All attributes of a DICOM file but its pixels. Raises ScanError for a damaged one."""
    return _read_dataset(file, stop_before_pixels=True)


def begins_as_dicom(start: bytes) -> bool:
    """Whether the first 132 bytes of a file are those of DICOM: the mark after the preamble, or at once the attributes, without header.

    A file without preamble begins with group 2 or 8, and a value representation (two capitals) or a short length.
    Source: DICOM PS3.10, 7.1, and PS3.5, 7.1.
    """
    if start[128:132] == b"DICM":
        return True
    if len(start) < 132 or start[:2] not in (b"\2\0", b"\x08\0", b"\0\x08"):
        return False
    return bool(re.fullmatch(rb"[A-Z]{2}", start[4:6])) or (start[1] == 0 and int.from_bytes(start[4:8], "little") < 2**16)


def _is_dicom(file):
    """Whether a file is DICOM. Raises ScanError for one that is not, though its name may be that of a slice."""
    if not stat.S_ISREG(file.stat().st_mode):
        return False
    with open(file, "rb") as stream:
        start = stream.read(132)
    if begins_as_dicom(start):
        return True
    place = start.find(b"DICM")
    _refuse_slice_name(file, "is no DICOM file" if place < 0 else f"is no DICOM file, its mark DICM is at byte {place} and not at 128")
    return False


def _refuse_slice_name(file, why="is no DICOM file"):
    """Nothing for a file whose name says that it is something else. Raises ScanError for one that may be a slice by its name."""
    named_otherwise = re.fullmatch(r"\.(?!dcm|ima|dicom)[a-z]\w*", file.suffix.lower()) or file.name.startswith(".")
    if named_otherwise or file.name.upper() in ("LICENSE", "README", "VERSION", "LOCKFILE"):
        return
    raise ScanError(f"file '{file.name}' {why}, though its name may be that of a slice: copy it again, or remove it")


def _is_deflated(file):
    """Whether a file is packed as a whole: pydicom would unpack it, whatever its size."""
    from pydicom.filereader import read_file_meta_info

    with open(file, "rb") as stream:
        start = stream.read(2048)
    if start[128:132] != b"DICM":
        return start[:2] == b"\2\0" and DEFLATED.encode() in start
    return _guarded(file, lambda: read_file_meta_info(file).get("TransferSyntaxUID")) == DEFLATED


def _read_dataset(file, **options):
    """What pydicom reads of a file that begins as DICOM does, with or without preamble and meta header."""
    from pydicom import dcmread

    return _guarded(file, dcmread, file, force=True, **options)


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


def is_image(header: "pydicom.FileDataset") -> bool:
    """Whether a header is that of an image: a structured report or a set of contours is none."""
    return "Rows" in header


def other_kind(header: "pydicom.FileDataset") -> str:
    """What a DICOM object is that is no CT slice by its own account, such as 'PT' or 'CT localizer'; '' for what should be one."""
    modality = text_of(header, "Modality")
    if modality.upper() not in ("", "CT"):
        return modality if re.fullmatch(r"[A-Za-z0-9_]{1,16}", modality) else "an unknown modality"
    if not is_image(header):
        return "CT data without an image"
    if "LOCALIZER" in text_of(header, "ImageType"):
        return "CT localizer"
    captured = text_of(header, "SOPClassUID").startswith(CAPTURES) and not text_of(header, "ImagePositionPatient")
    return "CT screen capture" if captured else ""


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
    if text_of(header, "PhotometricInterpretation") == "MONOCHROME1":
        raise ScanError(f"{name} is stored inverted (MONOCHROME1), which readers take differently: convert it to MONOCHROME2")
    if text_of(header, "SamplesPerPixel") != "1" or text_of(header, "PhotometricInterpretation") != "MONOCHROME2":
        raise ScanError(f"{name} is no grey CT image ({text_of(header, 'PhotometricInterpretation')}, a colour capture?): remove it")
    if (slope := numbers_of(header, "RescaleSlope", 1)[0]) <= 0:
        raise ScanError(f"{name} has RescaleSlope {slope:g}, with which denser is not brighter: export the series again, in HU")
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
    packed = _is_compressed(header) or not _syntax_of(header)
    if file.stat().st_size * (MOST_PACKED if packed else 1) < promised:
        raise ScanError(f"{name} is too short for the {promised} bytes of pixels of its header{CUT_SHORT}")


def _syntax_of(header):
    """The transfer syntax; None without a meta header, or where it names none."""
    return _guarded(Path(header.filename), header.file_meta.get, "TransferSyntaxUID")


def _is_compressed(header):
    """Whether the pixels are compressed, as far as the transfer syntax says."""
    syntax = _syntax_of(header)
    return bool(syntax) and _guarded(Path(header.filename), lambda: syntax.is_encapsulated)


def read_pixels(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """HU (y, x) of a slice, by its own slope and intercept, and where it is padding (None: nowhere). Raises ScanError."""
    dataset = _read_dataset(file)
    slope, intercept = (numbers_of(dataset, name, 1)[0] for name in ("RescaleSlope", "RescaleIntercept"))
    shape = shape_of(dataset)
    if _is_compressed(dataset):
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
    if not _syntax_of(dataset) and dataset["PixelData"].is_undefined_length:
        raise ScanError(f"file '{file.name}' has compressed pixels but no meta header that says how: {ADD_META}")
    if len(data) != 2 * math.prod(shape):
        longer = "its Rows and Columns are wrong, or more was added; export it again"
        remedy = longer if len(data) > 2 * math.prod(shape) else "copy it again"
        raise ScanError(f"file '{file.name}' holds {len(data)} bytes of pixels, its header says {2 * math.prod(shape)}: {remedy}")
    order = "<" if dataset.original_encoding[1] else ">"
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
        with sitk_name(file) as name, silence_itk():
            reader.SetFileName(name)
            reader.ReadImageInformation()
            if reader.GetSize() != (*shape[::-1], 1) or reader.GetNumberOfComponents() != 1:
                raise RuntimeError("its size is another than the header's")
            return sitk.GetArrayFromImage(reader.Execute())[0]
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("ERROR: ")[-1]
        raise ScanError(f"file '{file.name}' cannot be decompressed ({reason}): decompress the series first (gdcmconv -w)") from None
